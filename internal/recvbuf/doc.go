// Package recvbuf is about the receive buffers of sockets: their size, and what
// the kernel dropped because they were full.
package recvbuf
