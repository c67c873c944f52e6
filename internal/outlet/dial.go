package outlet

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/link"
	"github.com/prefixproxy/prefixproxy/internal/retry"
)

// A connection is a link to a server of the list, and what is heard from there.
type connection struct {
	link    link.Link
	server  *server
	began   time.Time     // when it was open
	probed  bool          // it stayed open while nothing was sent
	proven  bool          // a session on it has lasted
	config  *Config       // that it was made by
	heard   chan error    // cap 1: why the peer has ended it
	watched chan struct{} // closed when nothing more will be heard
	said    []byte        // by the peer, when that is closed
}

// watch listens until the peer ends the connection, or we do.
func (c *connection) watch() {
	var err error
	if c.said, err = c.link.Watch(); err != nil {
		c.heard <- err
	}
	close(c.watched)
}

// isEnded waits for d until the peer ends c, and says whether it has.
func (c *connection) isEnded(ctx context.Context, d time.Duration) bool {
	late := time.NewTimer(d)
	defer late.Stop()
	select {
	case <-c.watched:
		return true
	case <-late.C:
	case <-ctx.Done():
	}
	return false
}

// explain says whose end it was that why says, and what the peer has said.
func (c *connection) explain(why error) error {
	why = fmt.Errorf("send to upstream %s (%s): %w", c.server.entry.address, c.server.at, why)
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
	c.link.Close()
	<-c.watched
}

func (c *connection) reset() {
	c.link.Reset()
	<-c.watched
}

// lookUp returns the addresses that a resolves to, as package net takes them; itself, if it is
// no name. Some name servers never answer a question for IPv6 addresses: where it takes long, it is
// asked for those of IPv4 alone, too.
func (o *Outlet) lookUp(ctx context.Context, a address.Upstream) (ats []string, err error) {
	if !a.IsName() {
		return []string{a.At()}, nil
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, cancel := context.WithTimeout(ctx, maxResolve)
	defer cancel()
	found := make(chan []netip.Addr, 1)
	asking.Go(func() {
		if !retry.Sleep(ctx, nextAfter) {
			return
		}
		if ips, err := o.options.Resolver.LookupNetIP(ctx, "ip4", a.Host); err == nil {
			found <- ips
			cancel()
		}
	})
	ips, err := o.options.Resolver.LookupNetIP(ctx, "ip", a.Host)
	if err != nil {
		select {
		case ips = <-found:
		default:
			return nil, fmt.Errorf("look up upstream %s: %w", a, err)
		}
	}
	for _, ip := range ips {
		ats = append(ats, netip.AddrPortFrom(ip.Unmap(), uint16(a.Port)).String())
	}
	return ats, nil
}

// dialServer connects to s.
func (o *Outlet) dialServer(ctx context.Context, cfg *Config, s *server, limit time.Duration) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	way := link.Way{TLS: cfg.TLS, MaxDatagram: cfg.MaxDatagram, Small: o.failover.of(s).small}
	l, err := o.options.Dialer.Dial(ctx, s.entry.address, s.at, way)
	if err != nil {
		return nil, fmt.Errorf("dial upstream %s: %w", s.entry.address, err)
	}
	c := &connection{link: l, server: s, began: time.Now(), config: cfg, heard: make(chan error, 1), watched: make(chan struct{})}
	go c.watch() // close and reset wait for it
	return c, nil
}
