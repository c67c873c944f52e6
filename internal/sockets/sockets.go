// Package sockets binds sockets to addresses as the configuration writes them, sets what the
// kernel is to do for them, and looks after the files of unix sockets: they take the place of what
// dead processes left behind, and go with us, but nobody else's do.
//
// Not promised: anything against who may write to the directory, and does so at the same
// moment.
package sockets

import (
	"context"
	"errors"
	"math"
	"net"
	"strings"
	"syscall"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/poll"
)

// Bind binds a socket: a net.Listener, or a net.PacketConn for datagrams. A unix socket has a
// file, of which the caller takes care. Port 0 takes one that is free in both families. A host that
// is a name is looked up, until ctx ends.
func Bind(ctx context.Context, a address.Address) (conn poll.Conn, file File, err error) {
	at := a.Path
	if a.IsUnix() {
		err = removeStale(a)
	} else {
		if a.Port == 0 {
			a.Port, err = freePort(ctx, a.Network)
		}
		at = a.HostPort()
	}
	if err == nil {
		conn, err = bind(ctx, a.Family(), at)
	}
	if err != nil || !a.IsUnix() {
		return conn, file, err
	}
	if file, err = bound(a); err != nil {
		file.Remove()
		conn.Close()
	}
	return conn, file, err
}

// bind binds a socket as package net names it.
func bind(ctx context.Context, network, at string) (poll.Conn, error) {
	var listen net.ListenConfig
	if strings.HasPrefix(network, "udp") || network == "unixgram" {
		packets, err := listen.ListenPacket(ctx, network, at)
		if err != nil {
			return nil, err
		}
		return packets.(poll.Conn), nil
	}
	stream, err := listen.Listen(ctx, network, at)
	if err != nil {
		return nil, err
	}
	if u, ok := stream.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // it is the File that is removed
	}
	return stream.(poll.Conn), nil
}

// freePort returns a port that is free in both families.
func freePort(ctx context.Context, network string) (port int, err error) {
	conn, err := bind(ctx, network, ":0")
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if stream, ok := conn.(net.Listener); ok {
		return stream.Addr().(*net.TCPAddr).Port, nil
	}
	return conn.(net.PacketConn).LocalAddr().(*net.UDPAddr).Port, nil
}

// Each calls use for the address, or for the two that localhost is, without a family that the
// host lacks. Port 0 of the second is the one that the first took. It ends at the first other
// error.
func Each(a address.Address, use func(address.Address) (port int, err error)) error {
	if a.Host != "localhost" {
		_, err := use(a)
		return err
	}
	var lacking error
	for i, host := range []string{"127.0.0.1", "::1"} {
		a.Host = host
		port, err := use(a)
		switch {
		case err == nil:
			a.Port = port
		case !errors.Is(err, syscall.EADDRNOTAVAIL) && !errors.Is(err, syscall.EAFNOSUPPORT):
			return err
		case i > 0 && lacking != nil:
			return err
		default:
			lacking = err
		}
	}
	return nil
}

// Descriptors returns how many descriptors this process may have.
func Descriptors() int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return math.MaxInt32
	}
	return int(min(limit.Cur, math.MaxInt32))
}
