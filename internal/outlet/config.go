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
	To          []address.Upstream // the failover list; empty: what waits, waits on
	TLS         link.TLS           // of the tls:// addresses
	MaxAge      time.Duration      // of a connection, which then ends in order; 0: none
	MaxDatagram int                // bytes of a datagram's payload
}

func (c *Config) equal(other *Config) bool {
	return slices.Equal(c.To, other.To) && c.TLS == other.TLS && c.MaxAge == other.MaxAge && c.MaxDatagram == other.MaxDatagram
}

// Options is what an outlet needs of its surroundings.
type Options struct {
	Source   Source
	Log      *slog.Logger
	Dialer   Dialer
	Resolver Resolver // nil: net.DefaultResolver

	// Follow says whether others are likely to add to the source right behind the first, and are
	// to go before it is sent: one write for all. nil: nobody is. It never blocks.
	Follow func() bool
}

// A Dialer is what is used of a link.Dialer.
type Dialer interface {
	Dial(ctx context.Context, a address.Upstream, at string, way link.Way) (link.Link, error)
}

// A Resolver is what is used of a *net.Resolver.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}
