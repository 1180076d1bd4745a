// The eleven states of RFC 9293 §3.3.2, the table of legal changes, and the one function that makes them.
// docs/tcp-states.md is generated from this table.

import { KubeBusError } from '../../core/index.js';

export type TcpState =
  | 'CLOSED'
  | 'LISTEN'
  | 'SYN-SENT'
  | 'SYN-RECEIVED'
  | 'ESTABLISHED'
  | 'FIN-WAIT-1'
  | 'FIN-WAIT-2'
  | 'CLOSE-WAIT'
  | 'CLOSING'
  | 'LAST-ACK'
  | 'TIME-WAIT';

/** What may follow what: figure 5 of RFC 9293, with the changes that its text adds (simultaneous open, FIN and ACK in one). */
export const TCP_TRANSITIONS: Readonly<Record<TcpState, readonly TcpState[]>> = {
  CLOSED: ['LISTEN', 'SYN-SENT', 'SYN-RECEIVED', 'ESTABLISHED'],
  LISTEN: ['SYN-RECEIVED', 'SYN-SENT', 'CLOSED'],
  'SYN-SENT': ['SYN-RECEIVED', 'ESTABLISHED', 'CLOSED'],
  'SYN-RECEIVED': ['ESTABLISHED', 'FIN-WAIT-1', 'CLOSE-WAIT', 'CLOSED'],
  ESTABLISHED: ['FIN-WAIT-1', 'CLOSE-WAIT', 'CLOSED'],
  'FIN-WAIT-1': ['FIN-WAIT-2', 'CLOSING', 'TIME-WAIT', 'CLOSED'],
  'FIN-WAIT-2': ['TIME-WAIT', 'CLOSED'],
  'CLOSE-WAIT': ['LAST-ACK', 'CLOSED'],
  CLOSING: ['TIME-WAIT', 'CLOSED'],
  'LAST-ACK': ['CLOSED'],
  'TIME-WAIT': ['CLOSED'],
};

/** The holder of a connection's state; the only writer. */
export class StateMachine {
  private state: TcpState = 'CLOSED';

  get current(): TcpState {
    return this.state;
  }

  /** @throws KubeBusError ERR_INTERNAL when the table does not have this change: a bug of the caller. */
  change(to: TcpState): void {
    if (!TCP_TRANSITIONS[this.state].includes(to)) {
      throw new KubeBusError('ERR_INTERNAL', `TCP: no transition from ${this.state} to ${to}`);
    }
    this.state = to;
  }
}

/** Both sides' sequence numbers are known (RFC 9293 §3.5.3, "synchronized state"). */
export function isSynchronized(state: TcpState): boolean {
  return state !== 'CLOSED' && state !== 'LISTEN' && state !== 'SYN-SENT' && state !== 'SYN-RECEIVED';
}

/** The peer may still send text. */
export function canReceive(state: TcpState): boolean {
  return state === 'ESTABLISHED' || state === 'FIN-WAIT-1' || state === 'FIN-WAIT-2';
}

/** Data of ours may go out (in FIN-WAIT-1, CLOSING and LAST-ACK what was queued before FIN). */
export function canTransmit(state: TcpState): boolean {
  return (
    state === 'ESTABLISHED' ||
    state === 'CLOSE-WAIT' ||
    state === 'FIN-WAIT-1' ||
    state === 'CLOSING' ||
    state === 'LAST-ACK'
  );
}

/** The peer's FIN has been taken. */
export function hasPeerFin(state: TcpState): boolean {
  return state === 'CLOSE-WAIT' || state === 'CLOSING' || state === 'LAST-ACK' || state === 'TIME-WAIT';
}
