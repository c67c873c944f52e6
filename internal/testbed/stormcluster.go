//go:build linux

package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/prefixproxy/prefixproxy/internal/devetcd/devetcdtest"
	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

// A cluster is an etcd of several members, which reach each other through
// bridges. Its methods may be called from any goroutine, one member's by one at
// a time.
type cluster struct {
	t      testing.TB
	nodes  []*etcdNode
	client *clientv3.Client // goes past all bridges
}

// An etcdNode is one member.
type etcdNode struct {
	spec   etcdNodeSpec
	client string       // host:port
	into   *bridge      // through which the others reach it; who connects is a member's index; nil: by itself
	pid    atomic.Int64 // of the process, for the bridges; 0: it has not started
	*process
	stdin io.Closer
}

// newCluster starts a cluster of so many members at the addresses of net. It
// ends with the test.
func newCluster(t testing.TB, net loopbacks, members int) *cluster {
	t.Helper()
	return newClusterOf(t, net, members, func(*etcdNodeSpec) {})
}

// newClusterOf is newCluster of members that special changes.
func newClusterOf(t testing.TB, net loopbacks, members int, special func(*etcdNodeSpec)) *cluster {
	t.Helper()
	c := &cluster{t: t}
	var names, endpoints []string
	for i := range members {
		n := &etcdNode{spec: etcdNodeSpec{
			Name: fmt.Sprintf("m%d", i), Dir: sidebyside.MemoryDir(t),
			Client: "http://" + net.at(200+i, 2379), Peer: "http://" + net.at(200+i, 2380), Advertised: "http://" + net.at(210+i, 2380),
		}}
		special(&n.spec)
		n.client = strings.TrimPrefix(n.spec.Client, "http://")
		names = append(names, n.spec.Name+"="+n.spec.Advertised)
		endpoints = append(endpoints, n.spec.Client)
		c.nodes = append(c.nodes, n)
	}
	for i, n := range c.nodes { // whoConnects looks at all
		if n.spec.Advertised != n.spec.Peer {
			n.into = newBridge(t, net.at(210+i, 2380), net.at(200+i, 2380), c.whoConnects)
		}
	}
	for _, n := range c.nodes {
		n.spec.Cluster = strings.Join(names, ",")
		n.start(t)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop(), MaxUnaryRetries: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.client.Close()
		for _, n := range c.nodes {
			n.kill()
		}
	})
	c.client = client
	eventually(t, "a cluster that answers", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := client.Get(ctx, "up")
		return err
	})
	return c
}

// enableUsers makes the users root and prefixproxy, with passwords r and p; the
// cluster's client is root from then on.
func (c *cluster) enableUsers() {
	c.t.Helper()
	devetcdtest.EnableUsers(c.t, c.client)
	root, err := clientv3.New(clientv3.Config{
		Endpoints: c.client.Endpoints(), Logger: zap.NewNop(), MaxUnaryRetries: 3, Username: "root", Password: "r",
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.client.Close()
	c.client = root
}

// start starts the member, also again with the data that it had.
func (n *etcdNode) start(t testing.TB) {
	t.Helper()
	var within func(start func() error) error
	if n.spec.Network != "" {
		within = func(start func() error) error { return insideNetwork(n.spec.Network, start) }
	}
	n.process, n.stdin = startPart(t, "etcd", n.spec, nil, within)
	n.pid.Store(int64(n.cmd.Process.Pid))
}

func (n *etcdNode) kill() {
	n.process.Kill()
	n.stdin.Close()
}

// leader returns the index of the member that leads, as far as the members
// know, or an error that says what each answered. A member that stands still costs
// it some seconds: on a busy machine, one that is well may take as long.
func (c *cluster) leader(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	answers, errs := make([]*clientv3.StatusResponse, len(c.nodes)), make([]error, len(c.nodes))
	var asking sync.WaitGroup
	for i, n := range c.nodes {
		asking.Go(func() { answers[i], errs[i] = c.client.Status(ctx, n.spec.Client) })
	}
	asking.Wait()
	found, term := -1, uint64(0)
	for i, a := range answers {
		if errs[i] != nil {
			continue
		}
		errs[i] = fmt.Errorf("%x says that %x leads in term %d", a.Header.MemberId, a.Leader, a.RaftTerm)
		if a.Leader == a.Header.MemberId && a.RaftTerm >= term {
			found, term = i, a.RaftTerm
		}
	}
	if found < 0 {
		return found, errors.Join(errs...)
	}
	return found, nil
}

func (c *cluster) awaitLeader(t testing.TB) (leads int) {
	t.Helper()
	eventually(t, "a leader", func() (err error) {
		leads, err = c.leader(t.Context())
		return err
	})
	return leads
}

// part lets member i hear nothing of the others, or say nothing to them, or
// neither.
func (c *cluster) part(i int, hears, says bool) {
	for j, other := range c.nodes {
		if j != i {
			c.nodes[i].into.set(j, passage{there: !hears, back: !says})
			other.into.set(i, passage{there: !says, back: !hears})
		}
	}
}

// whoConnects returns which member made the connection; -1: another process.
// Their clients don't all tell, so that the kernel is asked whose the socket is.
func (c *cluster) whoConnects(conn net.Conn) int {
	theirs, err := askOfSocket(conn.RemoteAddr(), conn.LocalAddr())
	if err != nil {
		return -1 // it has closed it
	}
	socket := fmt.Sprintf("socket:[%d]", theirs.inode)
	for i, n := range c.nodes {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", n.pid.Load()))
		for _, file := range files {
			if to, err := os.Readlink(file); err == nil && to == socket {
				return i
			}
		}
	}
	return -1
}

// A loopbacks is 127.a.b.*, a network on this machine that is a test's own, so
// that the ports which its processes leave while they are dead are taken by
// nobody else.
type loopbacks string

var errNoLoopback = errors.New("no network of 127.0.0.0/8 is free")

// newLoopbacks returns a network of which nobody else uses the address .1. It
// is the test's until it ends.
func newLoopbacks(t testing.TB) loopbacks {
	t.Helper()
	for try := range 100 {
		key := os.Getpid() + 7919*try
		l := loopbacks(fmt.Sprintf("127.%d.%d", 64+key%128, key/128%256))
		claim, err := net.Listen("tcp", l.at(1, 9))
		if err == nil {
			t.Cleanup(func() { claim.Close() })
			return l
		}
	}
	t.Fatal(errNoLoopback)
	return ""
}

// at returns host:port.
func (l loopbacks) at(host, port int) string {
	return string(l) + "." + strconv.Itoa(host) + ":" + strconv.Itoa(port)
}
