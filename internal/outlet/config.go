package outlet

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/link"
)

// A Config says where an outlet sends.
type Config struct {
	To          []address.Upstream // the failover list; empty: lines wait
	TLS         link.TLS           // of the tls:// addresses
	MaxAge      time.Duration      // at which a connection is ended in order; 0: never
	MaxDatagram int                // bytes of a datagram's payload
}

func (c *Config) equal(other *Config) bool {
	return slices.Equal(c.To, other.To) && c.TLS == other.TLS && c.MaxAge == other.MaxAge && c.MaxDatagram == other.MaxDatagram
}

// Options are what an outlet works with.
type Options struct {
	Source   Source
	Log      *slog.Logger
	Dialer   Dialer
	Resolver Resolver // nil: net.DefaultResolver

	// Follow says whether more lines are likely to be added to the source within moments of the
	// first: they are waited for, so that one write takes all. nil: they are not. It never blocks.
	Follow func() bool
}

// A Dialer connects to servers, as a link.Dialer does.
type Dialer interface {
	Dial(ctx context.Context, a address.Upstream, at string, way link.Way) (link.Link, error)
}

// A Resolver looks up names, as a *net.Resolver does.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}
