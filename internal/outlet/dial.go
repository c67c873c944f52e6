package outlet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/address"
)

// A connection is a link to a server of the list, and what is heard from there.
type connection struct {
	link
	server  *server
	began   time.Time     // when it was open
	probed  bool          // it stayed open while nothing was sent
	config  *Config       // that it was made by
	heard   chan error    // cap 1: why the peer has ended it
	watched chan struct{} // closed when nothing more will be heard
	said    []byte        // by the peer, when that is closed
}

// watch listens until the peer ends the connection, or we do.
func (c *connection) watch() {
	var err error
	if c.said, err = c.link.watch(); err != nil {
		c.heard <- err
	}
	close(c.watched)
}

// explain adds what the peer has said to why the connection ended.
func (c *connection) explain(why error) error {
	select {
	case <-c.watched:
	default:
		return why // it goes on, see park
	}
	switch {
	case len(c.said) == 0:
		return why
	case bytes.HasPrefix(c.said, []byte{21, 3}): // an alert: RFC 8446, 5.1
		return fmt.Errorf("%w (it speaks TLS: is tls:// meant?)", why)
	}
	return fmt.Errorf("%w (it said %q)", why, c.said)
}

func (c *connection) close() {
	c.link.close()
	<-c.watched
}

func (c *connection) reset() {
	c.link.reset()
	<-c.watched
}

// errOwnListener says that an upstream turned out to be one of our listeners.
var errOwnListener = errors.New("it is our own listener: the lines would run in circles")

// lookUp returns the addresses that a, which is a name, resolves to, as package net takes
// them.
func (o *Outlet) lookUp(ctx context.Context, a address.Upstream) ([]string, error) {
	ips, err := o.addresses(ctx, a.Host)
	if err == nil && len(ips) == 0 {
		err = errors.New("it has no address")
	}
	if err != nil {
		return nil, fmt.Errorf("look up upstream %s: %w", a, err)
	}
	ats := make([]string, len(ips))
	for i, ip := range ips {
		ats[i] = netip.AddrPortFrom(ip.Unmap(), uint16(a.Port)).String()
	}
	return ats, nil
}

// addresses resolves a host. Some name servers never answer a question for IPv6 addresses:
// where it takes long, it is asked for those of IPv4 alone, too.
func (o *Outlet) addresses(ctx context.Context, host string) (ips []netip.Addr, err error) {
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, cancel := context.WithTimeout(ctx, maxResolve)
	defer cancel()
	answers := make(chan func() ([]netip.Addr, error), 2)
	ask := func(network string) {
		asking.Go(func() {
			ips, err := o.resolver.LookupNetIP(ctx, network, host)
			answers <- func() ([]netip.Addr, error) { return ips, err }
		})
	}
	ask("ip")
	late := time.NewTimer(nextAfter)
	defer late.Stop()
	for open := 1; open > 0; {
		select {
		case answer := <-answers:
			open--
			if ips, err = answer(); err == nil {
				return ips, nil
			}
		case <-late.C:
			open++
			ask("ip4")
		}
	}
	return nil, err
}

// dialServer connects to s.
func (o *Outlet) dialServer(ctx context.Context, cfg *Config, s *server, limit time.Duration) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	l, err := o.dialer.dial(ctx, cfg, s.entry.address, s.at)
	if err != nil {
		return nil, fmt.Errorf("dial upstream %s: %w", s.entry.address, err)
	}
	c := &connection{link: l, server: s, began: time.Now(), config: cfg, heard: make(chan error, 1), watched: make(chan struct{})}
	go c.watch() // close and reset wait for it
	return c, nil
}

// A dialer makes links.
type dialer interface {
	dial(ctx context.Context, cfg *Config, a address.Upstream, at string) (link, error)
}

// systemDialer makes real ones.
type systemDialer struct{ options Options }

func (d systemDialer) dial(ctx context.Context, cfg *Config, a address.Upstream, at string) (link, error) {
	if a.Network == "stdout" {
		return &stdout{w: d.options.Stdout}, nil
	}
	network := a.Network
	if network == "tls" {
		network = "tcp"
	}
	if d.options.Own != nil && d.options.Own.IsOwn(network, at) {
		return nil, errOwnListener
	}
	if a.Health != 0 {
		if err := askHealth(ctx, a, at); err != nil {
			return nil, err
		}
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, at)
	if err != nil {
		return nil, err
	}
	if a.IsDatagram() {
		return newDatagram(conn, network, cfg.MaxDatagram)
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
