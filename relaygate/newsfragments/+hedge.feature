A client waits two seconds at most for an internal node that was stopped or cut off: another is asked beside it, and the first answer is taken.
An internal node does the same with backends.
Opened HTTP does so when a client comes; for a request within its connection it asks one backend after the other.
