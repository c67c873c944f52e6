package outlet

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/address"
)

// A Config says where an outlet sends.
type Config struct {
	To          []address.Upstream // the failover list; empty: what waits, waits on
	TLS         TLS                // of the tls:// addresses
	MaxAge      time.Duration      // of a connection, which then ends in order; 0: none
	MaxDatagram int                // bytes of a datagram's payload
}

func (c *Config) equal(other *Config) bool {
	return slices.Equal(c.To, other.To) && c.TLS == other.TLS && c.MaxAge == other.MaxAge && c.MaxDatagram == other.MaxDatagram
}

// TLS says how the server of a tls:// address is known, and who we are.
type TLS struct {
	// CA is a PEM file of those who may have signed the server's certificate; "":
	// the system's list. The files are read anew at each connect.
	CA string `yaml:"ca"`

	// Cert and Key are PEM files of our own certificate, for servers that want one.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`

	// ServerName is what the server's certificate must be for; "": the host of the
	// address.
	ServerName string `yaml:"server_name"`
}

// Options is what an outlet needs of its surroundings.
type Options struct {
	Source Source
	Log    *slog.Logger
	Stdout io.Writer // of stdout:

	// Resets says that a connection that fails, or that a dead process leaves
	// behind, is reset, since all that it did not deliver comes again. Otherwise no
	// server is reset, unless the source says that lines must not leave any more.
	Resets bool

	// Own knows our listeners; nil: there are none.
	Own interface {
		// IsOwn says whether who dials at, in a network of package net, reaches one
		// of our listeners.
		IsOwn(network, at string) bool
	}

	Resolver Resolver // nil: net.DefaultResolver
}

// A Resolver is what is used of a *net.Resolver.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}
