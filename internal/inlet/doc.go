// Package inlet takes in what local applications send: it binds sockets, reads
// datagrams and streams, and hands blocks of bytes to a Handler. It owns the
// sockets, the buffers and the connections, and knows no line.
//
// The files, in the order in which a byte meets them:
//
//	inlet.go      Inlet, Handler: the door
//	bind.go       bound sockets; unixsocket.go: their paths
//	inherited.go  sockets that a supervisor bound, and keeps
//	datagram.go   the reader of a datagram socket; packets_*.go: many a system call
//	accept.go     accepting connections
//	stream.go     the reader of a connection
//	coalesce.go   letting input gather
package inlet
