//go:build linux

package testbed

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
)

// A fleet is holders of one pool, each with a client of its own.
type fleet struct {
	t       testing.TB
	clients []*etcd.Client // by holder
	holders []*membership.Holder
	known   []known // by holder: what it had from etcd when mark was called
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

// known is a claim until its horizon.
type known struct {
	claim   *membership.Claim
	horizon time.Time
}

// mark makes whole ask for more than the claims of now: they must be renewed, or
// others.
func (f *fleet) mark() {
	f.known = make([]known, len(f.holders))
	for i, h := range f.holders {
		if c, ok := h.Current(); ok {
			f.known[i] = known{c, time.Now().Add(c.Left())}
		}
	}
}

// startFleet starts n holders of a list of names that all get one of.
func startFleet(t testing.TB, n int, ttl time.Duration, client func() etcd.Config) *fleet {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	if n <= 10 {
		log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &fleet{t: t, cancel: cancel, known: make([]known, n)}
	for i := range n {
		c, err := etcd.New(client())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		cfg := membership.DefaultConfig()
		cfg.Owner, cfg.TTL, cfg.Names = fmt.Sprint("host-", i), ttl, membership.PrefixedNumerics("web-", n)
		h, err := membership.NewHolder(c, cfg, nil, log.With("host", i))
		if err != nil {
			t.Fatal(err)
		}
		f.clients, f.holders = append(f.clients, c), append(f.holders, h)
		f.wg.Go(func() { h.Run(ctx) })
	}
	t.Cleanup(f.stop)
	return f
}

func (f *fleet) stop() { f.cancel(); f.wg.Wait() }

// valid returns how many hold a name that may be used and that they have from
// etcd since mark. Two of one name are an error.
func (f *fleet) valid() (n int) {
	by := make(map[string]int)
	for i, h := range f.holders {
		c, ok := h.Current()
		if !ok {
			continue
		}
		if other, twice := by[c.Name()]; twice {
			f.t.Errorf("hosts %d and %d both hold %s", other, i, c.Name())
		}
		by[c.Name()] = i
		if k := f.known[i]; c != k.claim || time.Now().Add(c.Left()).After(k.horizon.Add(time.Second)) {
			n++
		}
	}
	return n
}

// whole waits until all hold a name, and returns how long that took.
func (f *fleet) whole() time.Duration {
	f.t.Helper()
	begun := time.Now()
	eventuallyWithin(f.t, 3*time.Minute, "a fleet in which all hold a name", func() error {
		if n := f.valid(); n < len(f.holders) {
			return fmt.Errorf("%d of %d hold a name", n, len(f.holders))
		}
		return nil
	})
	return time.Since(begun)
}

func (f *fleet) losses() (n uint64) {
	for _, h := range f.holders {
		for _, l := range h.Stats().Losses {
			n += l
		}
	}
	return n
}

// keeps lets time pass in which the fleet is to keep all its names, and waits until all
// have renewed them after it. A machine that is too busy for etcd to answer in time may
// cost a name meanwhile: how many is in the log.
func (f *fleet) keeps(d time.Duration) {
	f.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		f.valid()
		step := time.NewTimer(200 * time.Millisecond)
		<-step.C
	}
	f.mark()
	f.t.Logf("after %v more all have renewed; names lost: %d", f.whole(), f.losses())
}

func endpointsOf(nodes ...*etcdNode) func() etcd.Config {
	cfg := etcd.Config{}
	for _, n := range nodes {
		cfg.Endpoints = append(cfg.Endpoints, n.spec.Client)
	}
	return func() etcd.Config { return cfg }
}

// A member that is cut off from the others, be it the leader, answers, and can do
// nothing: those that were with it go on with another before their horizon, and what a
// person asks is answered by another, too.
func TestMemberCutOff(t *testing.T) {
	t.Parallel()
	t.Run("by bridges", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t, newLoopbacks(t), 3)
		testCutOff(t, c, func(i int) { c.part(i, false, false) })
	})
	t.Run("by its network", func(t *testing.T) {
		t.Parallel()
		testCutOff(newClusterApart(t))
	})
}

func testCutOff(t *testing.T, c *cluster, cut func(i int)) {
	leads := c.awaitLeader(t)
	known := []*etcdNode{c.nodes[leads], c.nodes[(leads+1)%3]}
	f := startFleet(t, 6, 9*time.Second, endpointsOf(known...))
	f.whole()
	cut(leads)
	f.keeps(12 * time.Second)

	text := fmt.Sprintf("membership: {names: {prefix: web-, count: 6}}\netcd: {endpoints: [%s, %s]}\nforward: {statsd: {to: [stdout:]}, carbon: {to: [stdout:]}}\n",
		known[0].spec.Client, known[1].spec.Client)
	file := writeFile(t, text, t.TempDir(), "config.yaml")
	for range 8 {
		out, err := program(t, nil, "members", "--config", file).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "\n6 held, 0 free, 0 waiting") {
			t.Errorf("members: %v\n%s", err, out)
		}
	}
}

// newClusterApart starts a cluster whose members have a network namespace each: one in
// which the test reaches them, and another in which they reach each other, until cut
// takes it from one.
func newClusterApart(t *testing.T) (_ *testing.T, c *cluster, cut func(i int)) {
	hub := newFaraway(t)
	hub.ip("-n", hub.name, "link", "add", "peers", "type", "bridge")
	hub.ip("-n", hub.name, "link", "set", "peers", "up")
	var apart []*faraway
	c = newClusterOf(t, newLoopbacks(t), 3, func(s *etcdNodeSpec) {
		f := newFaraway(t)
		apart = append(apart, f)
		address := fmt.Sprint("198.51.100.", len(apart))
		f.ip("-n", f.name, "link", "add", "peers", "type", "veth", "peer", "name", s.Name, "netns", hub.name)
		f.ip("-n", f.name, "addr", "add", address+"/24", "dev", "peers")
		f.ip("-n", f.name, "link", "set", "peers", "up")
		f.ip("-n", hub.name, "link", "set", s.Name, "master", "peers", "up")
		s.Network = filepath.Join("/run/netns", f.name)
		s.Client, s.Peer = "http://"+f.host+":2379", "http://"+address+":2380"
		s.Advertised = s.Peer
	})
	return t, c, func(i int) { apart[i].ip("-n", apart[i].name, "link", "set", "peers", "down") }
}

// A learner answers nothing; a host that comes to it takes another.
func TestLearner(t *testing.T) {
	t.Parallel()
	net := newLoopbacks(t)
	c := newCluster(t, net, 1)
	learner := &etcdNode{spec: etcdNodeSpec{
		Name: "learner", Dir: sidebyside.MemoryDir(t), Joins: true,
		Client: "http://" + net.at(205, 2379), Peer: "http://" + net.at(205, 2380), Advertised: "http://" + net.at(205, 2380),
	}}
	learner.spec.Cluster = c.nodes[0].spec.Cluster + ",learner=" + learner.spec.Advertised
	if _, err := c.client.MemberAddAsLearner(t.Context(), []string{learner.spec.Advertised}); err != nil {
		t.Fatal(err)
	}
	learner.start(t)
	t.Cleanup(learner.kill)
	awaitListening(t, learner.process, strings.TrimPrefix(learner.spec.Client, "http://"))
	f := startFleet(t, 6, 6*time.Second, endpointsOf(learner, c.nodes[0]))
	f.whole()
	f.keeps(8 * time.Second)
}

// One DNS name may stand for all members, of which one is cut off, and one is
// not there; and it may no longer resolve.
func TestOneNameOfSeveralAddresses(t *testing.T) {
	t.Parallel()
	loop := newLoopbacks(t)
	var addresses []string
	for i := range 4 {
		host, _, _ := net.SplitHostPort(loop.at(200+i, 1))
		addresses = append(addresses, host) // that of the last is nobody's
	}
	dns := newNameServer(t, "127.0.0.1:0")
	dns.move("etcd.example", addresses...)
	resolvesHere.Store(dns)
	t.Cleanup(func() { resolvesHere.Store(nil) })
	c := newCluster(t, loop, 3)
	f := startFleet(t, 6, 6*time.Second, func() etcd.Config {
		return etcd.Config{Endpoints: []string{"http://etcd.example:2379"}}
	})
	f.whole()
	c.part(0, false, false)
	f.keeps(8 * time.Second)
	c.part(0, true, true)
	dns.move("etcd.example") // to nowhere; the members are where they were
	c.part(1, false, false)
	f.keeps(8 * time.Second)
}

// An etcd that takes its time is no trouble for who has a long TTL: it comes to
// 1.6 s for every answer.
func TestSlowEtcd(t *testing.T) {
	t.Parallel()
	loop := newLoopbacks(t)
	c := newCluster(t, loop, 1)
	slow := newBridge(t, loop.at(220, 2379), c.nodes[0].client, nil)
	slow.set(0, passage{delay: 800 * time.Millisecond})
	f := startFleet(t, 1, 20*time.Second, func() etcd.Config {
		return etcd.Config{Endpoints: []string{"http://" + loop.at(220, 2379)}}
	})
	f.whole()
	f.keeps(16 * time.Second) // past the horizon of the claim itself
}

var (
	fleetHosts  = flag.Int("fleet.hosts", 24, "how many hosts TestFleet has")
	fleetBcrypt = flag.Int("fleet.bcrypt", 4, "what etcd's logins cost there; its default is 10")
)

// A fleet whose etcd has users: when the leader is killed, when all of etcd
// restarts, and when all hosts start cold at one moment, each has a name again,
// and no name has two hosts. It says how soon, and what it cost etcd:
//
//	go test ./internal/testbed -run TestFleet -v -fleet.hosts 160
func TestFleet(t *testing.T) {
	t.Parallel()
	c := newClusterOf(t, newLoopbacks(t), 3, func(s *etcdNodeSpec) { s.BcryptCost = *fleetBcrypt })
	c.enableUsers()
	client := func() etcd.Config {
		cfg := endpointsOf(c.nodes...)()
		cfg.Username, cfg.Password = "prefixproxy", func() (string, error) { return "p", nil }
		return cfg
	}
	f := startFleet(t, *fleetHosts, 15*time.Second, client)
	say := func(what string, took time.Duration, since []time.Duration) {
		spent := time.Duration(0)
		for i, n := range c.nodes {
			spent += n.cpu() - since[i]
		}
		t.Logf("%-26s %3d hosts: all hold a name after %5.1f s; %.2f CPU-seconds of etcd (%.3f a host); %d names lost so far",
			what, *fleetHosts, took.Seconds(), spent.Seconds(), spent.Seconds()/float64(*fleetHosts), f.losses())
	}
	spent := func() (by []time.Duration) {
		for _, n := range c.nodes {
			by = append(by, n.cpu())
		}
		return by
	}
	before := make([]time.Duration, 3)
	say("cold start:", f.whole(), before)

	leader := c.awaitLeader(t)
	before = spent()
	f.mark()
	c.nodes[leader].kill()
	before[leader] = 0
	say("the leader is killed:", f.whole(), before)
	c.nodes[leader].start(t)

	f.mark()
	c.restart()
	say("all of etcd restarts:", f.whole(), make([]time.Duration, 3))

	f.stop()
	c.restart()
	f = startFleet(t, *fleetHosts, 15*time.Second, client)
	say("both start cold:", f.whole(), make([]time.Duration, 3))

	before = spent()
	quiet := time.NewTimer(fleetQuiet)
	<-quiet.C
	for i, n := range c.nodes {
		before[i] = n.cpu() - before[i]
	}
	all := before[0] + before[1] + before[2]
	t.Logf("at rest: %.2f CPU-seconds of etcd in %v, of which some are its own: %.2f ms a host and second", all.Seconds(), fleetQuiet,
		1000*all.Seconds()/fleetQuiet.Seconds()/float64(*fleetHosts))
}

const fleetQuiet = 5 * time.Second

// restart kills all members and starts them again.
func (c *cluster) restart() {
	for _, n := range c.nodes {
		n.kill()
	}
	for _, n := range c.nodes {
		n.start(c.t)
	}
}

// cpu returns the CPU time that the member's process has had.
func (n *etcdNode) cpu() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.pid.Load()))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}
