// The cloud's proxy speaks to the service, the node joins connections.

import { behaviour } from './support/behaviour.js';

behaviour('always');
