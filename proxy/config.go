package proxy

import (
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/aggregate"
	"github.com/prefixproxy/prefixproxy/internal/conf"
	"github.com/prefixproxy/prefixproxy/internal/inlet"
	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/link"
)

// Config steers a Proxy. DefaultConfig returns the defaults that the field
// comments give; Problems checks a Config.
type Config struct {
	Rewrite line.Rules `yaml:"rewrite"`
	Listen  Listen     `yaml:"listen"`

	// Coalesce is how long input may gather before it is handled; default 5ms.
	// 0 handles it at once, at several times the CPU; a high value adds that
	// much latency and needs receive buffers that hold that much input.
	Coalesce time.Duration `yaml:"coalesce"`

	Forward Forward `yaml:"forward"`

	// Aggregate steers how StatsD becomes Carbon's points, where forward.statsd.to is
	// [carbon:].
	Aggregate aggregate.Config `yaml:"aggregate"`

	// Telemetry sends our own numbers, every 10 s, where StatsD has an upstream
	// and Options a Telemetry; default true.
	Telemetry bool `yaml:"-"`
}

// An Address names a listener or an upstream: see package address.
type Address = address.Address

// Listen says where applications reach the proxy.
type Listen struct {
	StatsD []Address `yaml:"statsd"` // default udp and tcp on localhost:8125
	Carbon []Address `yaml:"carbon"` // default tcp and udp on localhost:2003

	// MaxConnections bounds the connections that are open at the same time, over all
	// stream listeners; default 1000. At the limit, the one that has been idle longest
	// makes room for a new one; if none has been idle for a second, the new one waits
	// in the kernel's backlog. Each costs a file descriptor and some 8 KiB.
	MaxConnections int `yaml:"max_connections"`

	// IdleTimeout closes a connection that has sent nothing for this long; default 0:
	// never. TCP keep-alives find clients that are gone, and so no slow reporter loses
	// a line.
	IdleTimeout time.Duration `yaml:"idle_timeout"`
}

// An Upstream is the address of a server, as the configuration writes it.
type Upstream = address.Upstream

// Forward says where each protocol's lines go.
type Forward struct {
	StatsD StatsDForward `yaml:"statsd"`

	// Carbon are the destinations, at least one: each gets every line, keeps its own
	// place, and waits for no other. A file may write a single one without the list.
	Carbon []CarbonForward `yaml:"carbon"`
}

// StatsDForward steers the StatsD upstream.
type StatsDForward struct {
	// To is a failover list: the first address that works is used. Or it is [carbon:]
	// and nothing else: StatsD becomes points here, which go where Carbon goes.
	To []Upstream `yaml:"to"`

	// TLS is for tls:// addresses.
	TLS link.TLS `yaml:"tls"`

	// MaxAge is the age at which a connection is ended, in order and between two lines,
	// so that load balancers can spread connections again; default 0: never.
	MaxAge time.Duration `yaml:"max_age"`

	// Queue bounds the lines that wait, in bytes of memory; default 16MiB.
	Queue conf.Bytes `yaml:"queue"`

	// MaxDatagram bounds a datagram's payload in bytes; default 1432, which
	// fits Ethernet's MTU with IPv6 headers. Higher values fragment.
	MaxDatagram int `yaml:"max_datagram"`
}

// CarbonForward steers one destination of Carbon.
type CarbonForward struct {
	// Name tells this destination from the others; default "", if it is the only one.
	// A destination is known again by it, or by an address that it has still; and
	// where one of them has no name, the first takes the place of the first. A new one
	// gets what comes from then on; what waited for one that is gone is dropped.
	Name string `yaml:"name"`

	// To is a failover list: the first address that works is used.
	To []Upstream `yaml:"to"`

	// TLS is for tls:// addresses.
	TLS link.TLS `yaml:"tls"`

	// MaxAge is the age at which a connection is ended, in order and between two lines,
	// so that load balancers can spread connections again; default 0: never. Less than
	// 21 s proves no server: lines are sent again, and every third connection lasts 22 s.
	MaxAge time.Duration `yaml:"max_age"`

	// Queue bounds the lines that wait in memory, in bytes; default 64MiB.
	Queue conf.Bytes `yaml:"queue"`

	// Spool bounds the lines that wait on disk, in bytes; default 1GiB. If it is too
	// low, an outage costs the oldest lines. 0: nothing goes to disk.
	Spool conf.Bytes `yaml:"spool"`

	// Replay is how much of what the last peer's kernel had acknowledged is sent again
	// on the next connection, in bytes, beyond what that kernel has offered to buffer;
	// default 4MiB. It must cover what lies between that kernel and the program that
	// stores lines; more costs memory, and sends more lines twice. Use 0 for upstreams that
	// count: of what a connection of 20 s or more took, only the last second comes twice.
	Replay conf.Bytes `yaml:"replay"`
}

// The bounds of queue and max_datagram.
const (
	minQueue       = 1 << 20 // some batches of a busy reader
	minSpool       = 1 << 20 // some blocks of the queue
	minMaxDatagram = 512     // what every IPv4 path carries
	maxMaxDatagram = 65507   // what UDP over IPv4 can hold
)

// DefaultConfig returns the defaults. Upstreams have none.
func DefaultConfig() Config {
	return Config{
		Rewrite: line.Rules{From: "host", To: "{name}", Unmatched: line.ForwardUnmatched},
		Listen: Listen{
			StatsD:         []Address{{Network: "udp", Host: "localhost", Port: 8125}, {Network: "tcp", Host: "localhost", Port: 8125}},
			Carbon:         []Address{{Network: "tcp", Host: "localhost", Port: 2003}, {Network: "udp", Host: "localhost", Port: 2003}},
			MaxConnections: 1000,
		},
		Coalesce:  5 * time.Millisecond,
		Aggregate: aggregate.DefaultConfig(),
		Telemetry: true,
		Forward: Forward{
			StatsD: StatsDForward{Queue: 16 << 20, MaxDatagram: 1432},
			Carbon: []CarbonForward{{Queue: 64 << 20, Spool: 1 << 30, Replay: 4 << 20}},
		},
	}
}

// Problems returns everything that is wrong with the configuration.
func (c Config) Problems() conf.Problems {
	ps := c.Rewrite.Problems()
	own := c.Listen.places()
	c.Listen.problems(own, &ps)
	c.Forward.problems(c.Listen, own, &ps)
	c.aggregateProblems(&ps)
	if c.Coalesce < 0 || c.Coalesce > inlet.MaxCoalesce {
		ps.Addf("coalesce", "0 to 1s", "coalesce %v is out of range", c.Coalesce)
	}
	return ps
}

// A place is a socket and where it is written.
type place struct {
	path string
	address.Socket
}

// places are those of the listeners.
func (l Listen) places() (all []place) {
	for i, a := range l.StatsD {
		all = append(all, place{fmt.Sprintf("listen.statsd[%d]", i), a.Socket()})
	}
	for i, a := range l.Carbon {
		all = append(all, place{fmt.Sprintf("listen.carbon[%d]", i), a.Socket()})
	}
	return all
}

func (l Listen) problems(all []place, ps *conf.Problems) {
	for i, p := range all {
		if p.Network == "stdout" {
			ps.Addf(p.path, "use udp://, tcp://, unix:// or unixgram://", "stdout: is no listener")
			continue
		}
		if j := slices.IndexFunc(all[:i], func(before place) bool { return before.Takes(p.Socket) }); j >= 0 {
			ps.Addf(p.path, "remove one, or give it another port or path", "%s would take the socket of %s, %s", p.Address, all[j].path, all[j].Address)
		}
	}
	if len(l.StatsD)+len(l.Carbon) == 0 {
		ps.Addf("listen", "listen: {statsd: [udp://localhost:8125]}", "nothing listens")
	}
	if l.MaxConnections < 1 {
		ps.Addf("listen.max_connections", "1 or more", "max_connections %d is out of range", l.MaxConnections)
	}
	if l.IdleTimeout < 0 {
		ps.Addf("listen.idle_timeout", "0 or more; 0 never closes", "idle_timeout %v is negative", l.IdleTimeout)
	}
}

func (f Forward) problems(l Listen, own []place, ps *conf.Problems) {
	if len(l.StatsD) > 0 && len(f.StatsD.To) == 0 {
		ps.Addf("forward.statsd.to", "forward: {statsd: {to: [udp://statsd.example.net:8125]}}; where nobody sends StatsD: listen: {statsd: []}", "no upstream for StatsD, which listens")
	}
	checkUpstreams("forward.statsd.to", f.StatsD.To, []string{"udp", "tcp", "tls", "unixgram", "stdout", "carbon"}, own, ps)
	checkConnections("forward.statsd", f.StatsD.To, f.StatsD.TLS, f.StatsD.MaxAge, ps)
	f.carbonProblems(l, own, ps)
	if f.StatsD.Queue < minQueue {
		ps.Addf("forward.statsd.queue", "1MiB or more", "queue %v is too small", f.StatsD.Queue)
	}
	if n := f.StatsD.MaxDatagram; n < minMaxDatagram || n > maxMaxDatagram {
		ps.Addf("forward.statsd.max_datagram", "512 to 65507; 1432 fits Ethernet", "max_datagram %d is out of range", n)
	}
}

// Aggregates says whether StatsD becomes points here.
func (f StatsDForward) Aggregates() bool { return len(f.To) == 1 && f.To[0].Network == "carbon" }

// aggregateProblems are those of StatsD that becomes points.
func (c Config) aggregateProblems(ps *conf.Problems) {
	*ps = append(*ps, c.Aggregate.Problems()...)
	for i, a := range c.Forward.StatsD.To {
		if a.Network == "carbon" && len(c.Forward.StatsD.To) > 1 {
			ps.Addf(fmt.Sprintf("forward.statsd.to[%d]", i), "to: [carbon:], or servers alone", "carbon: counts here, in the place of all servers, and has none beside it")
		}
	}
	if !c.Forward.StatsD.Aggregates() {
		return
	}
	if c.Rewrite.Unmatched == line.ForwardUnmatched {
		ps.Addf("rewrite.unmatched", "rewrite: {unmatched: prefix}, which puts all under this host's name, or drop",
			"with forward.statsd.to: [carbon:], unmatched: forward would let two hosts write one series, of which the last would win")
	}
	for i, d := range c.Forward.Carbon {
		if len(d.To) == 0 && len(c.Listen.Carbon) == 0 {
			ps.Addf(c.Forward.carbonPath(i)+".to", "forward: {carbon: {to: [tcp://graphite.example.net:2003]}}", "no upstream for the points that StatsD becomes (forward.statsd.to: [carbon:])")
		}
	}
}

// counting is how StatsD becomes points.
func (c Config) counting() aggregate.Config {
	a := c.Aggregate
	a.To = c.Rewrite.To
	return a
}

// rules are how lines are rewritten.
func (c Config) rules() line.Rules {
	r := c.Rewrite
	r.Points = c.Forward.StatsD.Aggregates()
	return r
}

// A destinationName is like a name of a host.
var destinationName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// carbonPath is the key of a destination.
func (f Forward) carbonPath(i int) string {
	if len(f.Carbon) > 1 || f.Carbon[i].Name != "" {
		return fmt.Sprintf("forward.carbon[%d]", i)
	}
	return "forward.carbon"
}

// Upstreams yields the key of each upstream, and its address.
func (f Forward) Upstreams() iter.Seq2[string, Upstream] {
	return func(yield func(string, Upstream) bool) {
		keys, lists := []string{"forward.statsd"}, [][]Upstream{f.StatsD.To}
		for i, d := range f.Carbon {
			keys, lists = append(keys, f.carbonPath(i)), append(lists, d.To)
		}
		for i, to := range lists {
			for j, a := range to {
				if !yield(fmt.Sprintf("%s.to[%d]", keys[i], j), a) {
					return
				}
			}
		}
	}
}

// carbonProblems are those of the destinations.
func (f Forward) carbonProblems(l Listen, own []place, ps *conf.Problems) {
	if len(f.Carbon) == 0 {
		ps.Addf("forward.carbon", "[{name: main, to: [tcp://graphite.example.net:2003]}]", "the list of destinations is empty")
	}
	for i, d := range f.Carbon {
		path := f.carbonPath(i)
		sameName := func(other CarbonForward) bool { return other.Name == d.Name }
		switch {
		case d.Name == "" && len(f.Carbon) > 1:
			ps.Addf(path+".name", fmt.Sprintf("name: graphite%d", i+1), "of several destinations each has a name")
		case d.Name != "" && !destinationName.MatchString(d.Name):
			ps.Addf(path+".name", "letters, digits, _ and -, at most 64", "%q is no name", d.Name)
		case slices.ContainsFunc(f.Carbon[:i], sameName):
			ps.Addf(path+".name", "give it another name", "another destination is called %s", d.Name)
		}
		d.problems(path, l, own, ps)
	}
}

// problems are those of one destination.
func (f CarbonForward) problems(path string, l Listen, own []place, ps *conf.Problems) {
	if len(l.Carbon) > 0 && len(f.To) == 0 {
		ps.Addf(path+".to", "forward: {carbon: {to: [tcp://graphite.example.net:2003]}}; where nobody sends Carbon: listen: {carbon: []}", "no upstream for Carbon, which listens")
	}
	checkUpstreams(path+".to", f.To, []string{"tcp", "tls", "unix", "stdout"}, own, ps)
	checkConnections(path, f.To, f.TLS, f.MaxAge, ps)
	if f.Queue < minQueue {
		ps.Addf(path+".queue", "1MiB or more", "queue %v is too small", f.Queue)
	}
	if n := f.Spool; n != 0 && n < minSpool || n < 0 {
		ps.Addf(path+".spool", "1MiB or more; 0 for none", "spool %v is too small", n)
	}
	if n := f.Replay; n < 0 {
		ps.Addf(path+".replay", "0 or more", "replay %v is negative", n)
	}
}

func checkUpstreams(path string, to []address.Upstream, networks []string, own []place, ps *conf.Problems) {
	for i, a := range to {
		at := fmt.Sprintf("%s[%d]", path, i)
		if !slices.Contains(networks, a.Network) {
			ps.Addf(at, hintOfNetworks(a, networks), "%s is no upstream of this protocol", a)
			continue
		}
		if slices.Contains(to[:i], a) {
			ps.Addf(at, "remove one", "%s is in the list already", a)
		}
		if a.Network == "stdout" || a.Network == "carbon" {
			continue
		}
		if !a.IsUnix() && a.Host == "" {
			ps.Addf(at, "write host and port", "%s names no host", a)
			continue
		}
		server := a.Socket()
		if i := slices.IndexFunc(own, func(p place) bool { return server.Reaches(p.Socket) }); i >= 0 {
			ps.Addf(at, "move the listener or the server to another port", "%s is our own listener %s: the lines would run in circles", a, own[i].Address)
		}
	}
}

// hintOfNetworks is a in a network of these, or the list of them.
func hintOfNetworks(a address.Upstream, networks []string) string {
	hint := "use " + strings.NewReplacer("stdout://", "stdout:", "carbon://", "carbon:").Replace(strings.Join(networks, "://, ")+"://")
	if a.Network == "udp" && slices.Contains(networks, "tcp") {
		a.Network, a.Health = "tcp", 0
		return a.String() + "; " + hint
	}
	return hint
}

// minMaxAge is the shortest life of a connection: within its last second, nothing that it takes
// counts as delivered.
const minMaxAge = 2 * time.Second

func checkConnections(path string, to []address.Upstream, t link.TLS, maxAge time.Duration, ps *conf.Problems) {
	if maxAge < 0 || maxAge > 0 && maxAge < minMaxAge {
		ps.Addf(path+".max_age", "2s or more; 0 for no end", "max_age %v is out of range", maxAge)
	}
	if (t.Cert == "") != (t.Key == "") {
		ps.Addf(path+".tls", "give both, or neither", "tls.cert and tls.key belong together")
		return
	}
	if !address.IsHost(t.ServerName) {
		ps.Addf(path+".tls.server_name", "the server's name, as its certificate has it", "%q is no host", t.ServerName)
	}
	network := func(want string) int {
		return slices.IndexFunc(to, func(a address.Upstream) bool { return a.Network == want })
	}
	switch i := network("tcp"); {
	case t == (link.TLS{}) || len(to) == 0 || network("tls") >= 0:
	case i >= 0:
		ps.Addf(fmt.Sprintf("%s.to[%d]", path, i), "tls://"+to[i].HostPort()+", or remove "+path+".tls", "%s is not encrypted, and tls is given", to[i])
	default:
		ps.Addf(path+".tls", "remove it, or write tls:// in "+path+".to", "tls is given, and no address is tls://")
	}
}
