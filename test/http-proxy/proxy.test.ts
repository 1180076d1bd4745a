// Every request is read by the node's proxy.

import { behaviour } from './support/behaviour.js';

behaviour('never');
