// Package poll waits for sockets without the runtime's poller, which wakes a
// thread for each packet that comes or has left. A Socket is read and written by
// system calls that don't wait; where there is nothing to do, its goroutine waits
// with Wait. Packets receive many datagrams in one such call.
package poll
