// The QUIC engine behind a narrow seam: what our driver needs of it, so that it can be changed. Today it is Cloudflare's
// quiche 0.18 as the optional package @matrixai/quic ships it, compiled; that version is old.
//
// The types here are ours and name only what is called; a user without the package can still compile against this one.

import { KubeBusError } from '../../lib/core/index.js';

export interface HostPort {
  readonly host: string;
  readonly port: number;
}

export interface EngineError {
  readonly isApp: boolean;
  readonly errorCode: number;
  readonly reason: Uint8Array;
}

/** One connection: bytes of UDP datagrams in (`recv`), bytes of UDP datagrams out (`send`, until null). */
export interface EngineConnection {
  recv(data: Uint8Array, info: { from: HostPort; to: HostPort }): number;
  send(out: Uint8Array): [number, { to: HostPort }] | null;
  /** Milliseconds until onTimeout is due; null: no timer. */
  timeout(): number | null;
  onTimeout(): void;
  streamRecv(id: number, out: Uint8Array): [number, boolean] | null;
  streamSend(id: number, data: Uint8Array, fin: boolean): number | null;
  streamReadable(id: number): boolean;
  streamCapacity(id: number): number;
  dgramRecv(out: Uint8Array): number | null;
  dgramRecvQueueLen(): number;
  dgramSend(data: Uint8Array): unknown;
  dgramSendQueueByteSize(): number;
  isDgramSendQueueFull(): boolean;
  dgramMaxWritableLen(): number | null;
  newSourceCid(scid: Uint8Array, resetToken: bigint, retireIfNeeded: boolean): number;
  retiredScidNext(): Uint8Array | null;
  sourceCidsLeft(): number;
  peerCertChain(): Uint8Array[] | null;
  isEstablished(): boolean;
  isClosed(): boolean;
  isTimedOut(): boolean;
  isDraining(): boolean;
  peerError(): EngineError | null;
  localError(): EngineError | null;
  close(app: boolean, code: number, reason: Uint8Array): unknown;
}

export interface EngineConfig {
  setApplicationProtos(list: string[]): void;
  setMaxIdleTimeout(ms: number): void;
  setMaxRecvUdpPayloadSize(bytes: number): void;
  setMaxSendUdpPayloadSize(bytes: number): void;
  setInitialMaxData(bytes: number): void;
  setInitialMaxStreamDataBidiLocal(bytes: number): void;
  setInitialMaxStreamDataBidiRemote(bytes: number): void;
  setInitialMaxStreamsBidi(n: number): void;
  setMaxConnectionWindow(bytes: number): void;
  setMaxStreamWindow(bytes: number): void;
  setActiveConnectionIdLimit(n: number): void;
  setDisableActiveMigration(on: boolean): void;
  setCcAlgorithmName(name: string): void;
  enablePacing(on: boolean): void;
  setStatelessResetToken(token: bigint | null): void;
  enableDgram(on: boolean, recvQueue: number, sendQueue: number): void;
}

export interface PacketHeader {
  readonly ty: number;
  readonly version: number;
  readonly dcid: Uint8Array;
  readonly scid: Uint8Array;
  readonly token?: Uint8Array;
}

export interface Engine {
  readonly MAX_CONN_ID_LEN: number;
  readonly Type: { readonly Initial: number; readonly Short: number };
  readonly Header: { fromSlice(data: Uint8Array, cidLength: number): PacketHeader };
  readonly Config: {
    /** CA, keys and certificates as PEM. On a server `verifyPeer` demands a certificate of the client. */
    withBoringSslCtx(
      verifyPeer: boolean,
      verifyAllowFail: boolean,
      ca: Uint8Array,
      keys: Uint8Array[],
      certificates: Uint8Array[],
      signatures: null,
    ): EngineConfig;
  };
  readonly Connection: {
    connect(
      name: string | null,
      scid: Uint8Array,
      local: HostPort,
      remote: HostPort,
      config: EngineConfig,
    ): EngineConnection;
    accept(
      scid: Uint8Array,
      originalDcid: Uint8Array | null,
      local: HostPort,
      remote: HostPort,
      config: EngineConfig,
    ): EngineConnection;
  };
  negotiateVersion(scid: Uint8Array, dcid: Uint8Array, out: Uint8Array): number;
  retry(
    scid: Uint8Array,
    dcid: Uint8Array,
    newScid: Uint8Array,
    token: Uint8Array,
    version: number,
    out: Uint8Array,
  ): number;
  versionIsSupported(version: number): boolean;
}

const PACKAGE = '@matrixai/quic';

/** Throws ERR_TRANSPORT_UNAVAILABLE where the optional package, or its binary for this machine, is missing. */
export async function loadEngine(): Promise<Engine> {
  try {
    const module = (await import(`${PACKAGE}/native/quiche.js`)) as { default: Engine };
    return module.default;
  } catch (cause) {
    throw new KubeBusError(
      'ERR_TRANSPORT_UNAVAILABLE',
      `the QUIC transport needs the optional package ${PACKAGE} 2.0.9 (npm install ${PACKAGE}@2.0.9), and its binary for this machine`,
      { cause },
    );
  }
}
