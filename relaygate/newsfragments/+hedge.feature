A client waits two seconds at most for an internal node that was stopped or cut off: another is asked beside it, and the first answer is taken.
An internal node does the same with backends.
