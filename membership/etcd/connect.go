package etcd

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/conf"
)

// How long making a connection may take.
const (
	connectTime   = 2 * time.Second
	handshakeTime = 4 * time.Second // a command, which has five, then gets through by way of another member
	resolveTime   = 2 * time.Second
)

// maxKnown is about how many addresses are remembered: a name may have ever new ones.
const maxKnown = 256

// A connector makes the connection to etcd: one at a time, to the address that was tried longest
// ago, over all addresses of all endpoints. gRPC asks it for the next one when a connection has
// ended. Any goroutine may use it.
type connector struct {
	endpoints []*url.URL
	tls       func() (*tls.Config, error)

	mu       sync.Mutex
	turns    int                 // tries so far
	tried    map[string]int      // by endpoint, and by address that is known: the turn of the last try
	hosts    map[string][]string // by endpoint: what its host resolved to last
	link     *link               // the newest; nil before the first
	failures []*connectError     // why there is no connection: the last of each address, in order; none while there is one
}

// A connectError is why a connection could not be made, or why it ended.
type connectError struct {
	endpoint string // as configured, and the address where that differs
	err      error
}

func (e *connectError) Error() string { return e.endpoint + ": " + e.err.Error() }
func (e *connectError) Unwrap() error { return e.err }

func newConnector(endpoints []string, tls func() (*tls.Config, error)) (*connector, error) {
	if len(endpoints) == 0 {
		return nil, errors.New("no etcd endpoint")
	}
	c := &connector{tls: tls, tried: make(map[string]int), hosts: make(map[string][]string)}
	for _, text := range endpoints {
		u, err := ParseEndpoint(text)
		if err != nil {
			return nil, err
		}
		c.endpoints = append(c.endpoints, u)
		c.tried[u.String()] = 0
	}
	// The members share the fleet's connections.
	rand.Shuffle(len(c.endpoints), func(i, j int) { c.endpoints[i], c.endpoints[j] = c.endpoints[j], c.endpoints[i] })
	return c, nil
}

// ParseEndpoint reads http://host:port, https://host:port or host:port. Its errors show no
// password.
func ParseEndpoint(text string) (*url.URL, error) {
	full := text
	if !strings.Contains(full, "://") {
		full = "http://" + full
	}
	u, err := url.Parse(full)
	if err != nil && strings.Contains(full, "://[") { // the zone of an address, as the system writes it
		u, err = url.Parse(strings.Replace(full, "%", "%25", 1))
	}
	if err != nil {
		return nil, fmt.Errorf("%q is no endpoint", conf.Mask(text))
	}
	if u.User != nil {
		return nil, errors.New("an endpoint is no more than scheme, host and port; a user goes to etcd.username and etcd.password_file")
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || !address.IsHost(u.Hostname()) || err != nil || port == 0 || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is no endpoint", text)
	}
	u.Path = ""
	return u, nil
}

// nameOf returns the host of an endpoint as others know it: the zone of an IPv6 address is ours.
func nameOf(u *url.URL) string {
	host, _, _ := strings.Cut(u.Hostname(), "%")
	return host
}

// dial is how gRPC gets a connection: to the first address that accepts one.
func (c *connector) dial(ctx context.Context, _ string) (net.Conn, error) {
	var err error
	for _, e := range c.inTurn() {
		addresses, failed := c.resolve(ctx, e)
		if failed != nil {
			err = c.failed(e.String(), failed)
		}
		for _, address := range addresses {
			var l *link
			if l, failed = c.connect(ctx, e, address); failed == nil {
				return l, nil
			}
			err = c.failed(shown(e, address), failed)
			if ctx.Err() != nil {
				return nil, err
			}
		}
	}
	return nil, err
}

// inTurn returns the endpoints, the one tried longest ago first.
func (c *connector) inTurn() []*url.URL {
	c.mu.Lock()
	defer c.mu.Unlock()
	es := slices.Clone(c.endpoints)
	slices.SortStableFunc(es, func(a, b *url.URL) int {
		return cmp.Compare(c.tried[a.String()], c.tried[b.String()])
	})
	return es
}

// resolve returns the addresses of an endpoint, the one tried longest ago first. While its name does
// not resolve, which is the error, they are those of the last time: the members need not have gone
// with the name server.
func (c *connector) resolve(ctx context.Context, e *url.URL) ([]string, error) {
	c.mu.Lock()
	c.turns++
	c.tried[e.String()] = c.turns
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	hosts, err := net.DefaultResolver.LookupHost(ctx, e.Hostname())
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		hosts = c.hosts[e.String()]
	}
	c.hosts[e.String()] = hosts
	rand.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	addresses := make([]string, len(hosts))
	for i, host := range hosts {
		addresses[i] = net.JoinHostPort(host, e.Port())
	}
	for _, a := range addresses {
		c.tried[a] += 0 // it is known
	}
	maps.DeleteFunc(c.tried, func(a string, turn int) bool {
		return turn <= c.turns-maxKnown && !strings.Contains(a, "://") && !slices.Contains(addresses, a)
	})
	slices.SortStableFunc(addresses, func(a, b string) int { return cmp.Compare(c.tried[a], c.tried[b]) })
	return addresses, err
}

// shown returns an address as people know it.
func shown(e *url.URL, address string) string {
	if address == e.Host {
		return e.String()
	}
	return e.String() + " (" + address + ")"
}

func (c *connector) connect(ctx context.Context, e *url.URL, address string) (*link, error) {
	c.mu.Lock()
	c.turns++
	c.tried[address] = c.turns
	suspect := e.Scheme == "http" && slices.ContainsFunc(c.failures, func(f *connectError) bool {
		return f.endpoint == shown(e, address) && is(errClosedUnheard, errNoEtcd, errWantsTLS)(f)
	})
	c.mu.Unlock()
	if suspect && speaksTLS(ctx, address) {
		return nil, errWantsTLS
	}
	dialer := net.Dialer{Timeout: connectTime}
	raw, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	boundSilence(raw)
	conn := raw
	if e.Scheme == "https" {
		if conn, err = c.handshake(ctx, conn, nameOf(e)); err != nil {
			return nil, err
		}
	}
	l := &link{Conn: conn, raw: raw, of: c, shown: shown(e, address), made: time.Now()}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link = l
	return l, nil
}

// handshake makes a TLS connection of conn, by the files as they are now.
func (c *connector) handshake(ctx context.Context, conn net.Conn, host string) (net.Conn, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.tls != nil {
		its, err := c.tls()
		if err != nil {
			conn.Close()
			return nil, &filesError{err}
		}
		cfg = its.Clone()
	}
	cfg.ServerName = cmp.Or(cfg.ServerName, host)
	cfg.NextProtos = []string{"h2"}
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	secure := tls.Client(conn, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		switch {
		case isClosed(err):
			err = errClosedHandshake
		case strings.HasSuffix(err.Error(), "tls: no application protocol"):
			err = errNoEtcd
		}
		return nil, err
	}
	return secure, nil
}

// speaksTLS says whether a server answers to TLS, whoever it is.
func speaksTLS(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} // nothing is said to it
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// failed notes why a connection could not be made.
func (c *connector) failed(endpoint string, err error) error {
	failure := &connectError{endpoint, err}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.note(failure)
	return failure
}

// note notes the last failure of an address. The caller holds mu.
func (c *connector) note(failure *connectError) {
	others := slices.DeleteFunc(c.failures, func(f *connectError) bool { return f.endpoint == failure.endpoint })
	c.failures = append(others[max(0, len(others)-maxKnown+1):], failure)
}

// why returns why there is no connection; nothing while there is one. at is the
// endpoint of the newest.
func (c *connector) why() (failures []*connectError, at string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != nil {
		at = c.link.shown
	}
	return slices.Clone(c.failures), at
}

// isHeard says whether there is a connection over which the member has said something.
func (c *connector) isHeard() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link != nil && c.link.heard && !c.link.ended
}

// moveOn ends the connection on which a request that began at some moment has failed; gRPC then
// asks for the next one at once. A connection made since then is not to blame, unless its member has
// been silent for a second. With only one address in all, it takes two failures in a row.
func (c *connector) moveOn(begun time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.link
	if l == nil || l.ended || l.made.After(begun) && (l.heard || time.Since(l.made) < time.Second) {
		return
	}
	l.failures++
	if l.failures > 1 || len(c.tried) > 2 { // an endpoint, and its address
		if !l.heard {
			c.note(&connectError{l.shown, errSilent})
		}
		l.ended = true
		l.raw.Close() // without TLS' farewell, which may take its time
	}
}

// unary is the interceptor that notes answers.
func (c *connector) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.link != nil {
			c.link.failures = 0
		}
	}
	return err
}

// A link is the connection to a member.
type link struct {
	net.Conn
	raw      net.Conn // below TLS
	of       *connector
	shown    string // the endpoint
	made     time.Time
	failures int // requests in a row that were not answered; this and what follows under of.mu
	ended    bool
	heard    bool // the member has said something; gRPC's reader alone writes it
}

// Read implements net.Conn, and looks at what the first bytes are.
func (l *link) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	switch {
	case errors.Is(err, net.ErrClosed): // by us
	case l.heard:
		if err != nil && n == 0 {
			l.fail(err)
		}
	case n > 3 && p[3] != frameSettings:
		l.fail(errNoEtcd)
	case n > 0:
		l.work()
	case isClosed(err):
		l.fail(errClosedUnheard)
	case err != nil:
		l.fail(err)
	}
	return n, err
}

// work notes that the member has said something.
func (l *link) work() {
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	l.heard = true
	if l == l.of.link {
		l.of.failures = nil
	}
}

// fail notes why the connection ended. If there is a newer one, that is no news.
func (l *link) fail(err error) {
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	l.ended = true
	if l == l.of.link {
		l.of.note(&connectError{l.shown, err})
	}
}

// frameSettings is the type of the frame with which HTTP/2 begins, in its fourth byte.
const frameSettings = 4

// What there was to do for TLS is done when gRPC has a link: for it, credentials are what
// a connection is called.
type linkCredentials struct {
	credentials.TransportCredentials
	protocol string
}

// Info implements credentials.TransportCredentials.
func (c linkCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: c.protocol}
}

// Clone implements credentials.TransportCredentials.
func (c linkCredentials) Clone() credentials.TransportCredentials { return c }

// credentials returns the connector's.
func (c *connector) credentials() linkCredentials {
	if c.endpoints[0].Scheme == "https" {
		return linkCredentials{insecure.NewCredentials(), "tls"}
	}
	return linkCredentials{insecure.NewCredentials(), "insecure"}
}
