package outlet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// How long an attempt may take.
const (
	resolveTime = 2 * time.Second
	dialTime    = time.Second     // where another server is next
	lastTime    = 3 * time.Second // where none is
)

// A connection is a link to a server of the list.
type connection struct {
	link
	server *server
	index  int       // of its address in the list
	began  time.Time // when it was open
	config *Config   // that it was made by
}

// errOwnListener says that an upstream turned out to be one of our listeners.
var errOwnListener = errors.New("it is our own listener: the lines would run in circles")

// dialFirst connects to the first server of the first n addresses that does not
// rest and takes the connection; nil: none does.
func (o *Outlet) dialFirst(ctx context.Context, n int) *connection {
	return o.dialExcept(ctx, n, nil)
}

// seekOther connects to the first server of the list other than one that does not rest;
// nil: none could be, or ctx ended.
func (o *Outlet) seekOther(ctx context.Context, than *server) *connection {
	return o.dialExcept(ctx, len(o.failover.list()), than)
}

// dialExcept is dialFirst, but for one server, which is passed over; nil: none is.
func (o *Outlet) dialExcept(ctx context.Context, n int, than *server) *connection {
	list := o.failover.list()
	n = min(n, len(list))
	for i, e := range list[:n] {
		servers := o.resolve(ctx, e)
		for j, s := range servers {
			if s == than || o.failover.isResting(time.Now(), e, s.at) {
				continue
			}
			budget := dialTime
			if i == n-1 && j == len(servers)-1 {
				budget = lastTime
			}
			if c := o.dialServer(ctx, s, budget); c != nil {
				c.index = i
				return c
			}
		}
	}
	return nil
}

// resolve returns the servers of an address; none if it does not resolve.
func (o *Outlet) resolve(ctx context.Context, e *entry) []*server {
	if o.failover.isResting(time.Now(), e, "") {
		return nil
	}
	ats, err := o.lookUp(ctx, e.address)
	if err != nil {
		if ctx.Err() == nil {
			o.failover.unresolved(time.Now(), e, fmt.Errorf("look up upstream %s: %w", e.address, err))
		}
		return nil
	}
	return o.failover.resolved(e, ats)
}

// lookUp returns the addresses that a is, as package net takes them.
func (o *Outlet) lookUp(ctx context.Context, a Address) ([]string, error) {
	switch {
	case a.Network == "stdout":
		return []string{"stdout:"}, nil
	case a.IsUnix():
		return []string{a.Path}, nil
	}
	if _, err := netip.ParseAddr(a.Host); err == nil {
		return []string{a.HostPort()}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	ips, err := o.resolver.LookupNetIP(ctx, "ip", a.Host)
	if err != nil {
		return nil, err
	}
	if len(ips) == 0 {
		return nil, errors.New("it has no address")
	}
	ats := make([]string, len(ips))
	for i, ip := range ips {
		ats[i] = netip.AddrPortFrom(ip.Unmap(), uint16(a.Port)).String()
	}
	return ats, nil
}

// dialServer connects to s; nil: that failed.
func (o *Outlet) dialServer(parent context.Context, s *server, budget time.Duration) *connection {
	ctx, cancel := context.WithTimeout(parent, budget)
	defer cancel()
	cfg := o.config.Load()
	l, err := o.dialer.dial(ctx, cfg, s.entry.address, s.at, o.failover.isKnown(s))
	if err != nil {
		if parent.Err() == nil {
			o.failover.failed(time.Now(), s, 0, true, fmt.Errorf("dial upstream %s: %w", s.entry.address, err))
		}
		return nil
	}
	return &connection{link: l, server: s, began: time.Now(), config: cfg}
}

// A dialer makes links. known says that the server at an address has worked, and has
// not failed since.
type dialer interface {
	dial(ctx context.Context, cfg *Config, a Address, at string, known bool) (link, error)
}

// systemDialer makes real ones.
type systemDialer struct{ options Options }

func (d systemDialer) dial(ctx context.Context, cfg *Config, a Address, at string, known bool) (link, error) {
	if a.Network == "stdout" {
		return &stdout{w: d.options.Stdout}, nil
	}
	if err := d.refuseOwn(a.Network, at); err != nil {
		return nil, err
	}
	if a.Health != 0 {
		if err := askHealth(ctx, a, at); err != nil {
			return nil, err
		}
	}
	network := a.Network
	if network == "tls" {
		network = "tcp"
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, at)
	if err != nil {
		return nil, err
	}
	if a.isDatagram() {
		defer conn.Close()
		return newDatagram(conn.(syscall.Conn), network, cfg.MaxDatagram, !known)
	}
	l, err := newStream(conn.(streamConn), d.options.Resets)
	if err != nil {
		conn.Close()
		return nil, err
	}
	if a.Network != "tls" {
		return l, nil
	}
	c, err := cfg.TLS.config(a.Host)
	if err != nil {
		l.close()
		return nil, err
	}
	return startTLS(ctx, l, c)
}

func (d systemDialer) refuseOwn(network, at string) error {
	peer, err := netip.ParseAddrPort(at)
	if err == nil && d.options.Own != nil && d.options.Own.IsOwn(network, peer) {
		return errOwnListener
	}
	return nil
}
