// The end of a connection: RFC 9293 §3.6 and §3.10.4. Which half is closed by whom, and what follows in the state machine.

import type { StateMachine } from './state.js';

export class Closing {
  /** The application wants no more to be sent: FIN is queued. */
  sendClosed = false;
  /** The application will not read any more: what still arrives is answered with RST (RFC 1122 §4.2.2.13). */
  receiveClosed = false;
  /** SO_LINGER: microseconds, or -1. */
  linger = -1;

  /** FIN has gone out for the first time. */
  handleFinSent(machine: StateMachine): void {
    if (machine.current === 'ESTABLISHED' || machine.current === 'SYN-RECEIVED') machine.change('FIN-WAIT-1');
    else if (machine.current === 'CLOSE-WAIT') machine.change('LAST-ACK');
  }

  /** Our FIN is acknowledged: RFC 9293 §3.10.7.4 step 5. */
  handleFinAcknowledged(machine: StateMachine): void {
    if (machine.current === 'FIN-WAIT-1') machine.change('FIN-WAIT-2');
    else if (machine.current === 'CLOSING') machine.change('TIME-WAIT');
    else if (machine.current === 'LAST-ACK') machine.change('CLOSED');
  }

  /** The peer's FIN was reached: step 8. */
  handleFinReceived(machine: StateMachine): void {
    if (machine.current === 'ESTABLISHED' || machine.current === 'SYN-RECEIVED') machine.change('CLOSE-WAIT');
    else if (machine.current === 'FIN-WAIT-1') machine.change('CLOSING');
    else if (machine.current === 'FIN-WAIT-2') machine.change('TIME-WAIT');
  }
}
