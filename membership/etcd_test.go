package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/prefixproxy/prefixproxy/internal/devetcd"
	"github.com/prefixproxy/prefixproxy/internal/devetcd/devetcdtest"
	"github.com/prefixproxy/prefixproxy/internal/fleet"
	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
	"github.com/prefixproxy/prefixproxy/membership/pool"
	"github.com/prefixproxy/prefixproxy/membership/state"
)

// sharedEtcd is one server for the tests that do not stop theirs; each test
// has a pool of its own in it.
var sharedEtcd *devetcd.Server

func TestMain(m *testing.M) { os.Exit(withSharedEtcd(m)) }

func withSharedEtcd(m *testing.M) int {
	dir, err := sidebyside.NewMemoryDir()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	os.Setenv("TMPDIR", dir) // state directories, too: a holder waits for what it writes there
	if sharedEtcd, err = devetcd.Start(filepath.Join(dir, "etcd")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer sharedEtcd.Close()
	return sidebyside.M{M: m, Most: 32}.Run() // most wait for etcd, and use no processor
}

// newClient returns a client that ends with the test, of a server that the test does not stop:
// it is never late.
func newClient(t *testing.T, s *devetcd.Server, interceptors ...grpc.UnaryClientInterceptor) *etcd.Client {
	t.Helper()
	return newClientOf(t, etcd.Config{Endpoints: []string{s.Endpoint()}}, append(interceptors, devetcdtest.Unhurried)...)
}

// newHastyClient returns one of a server that the test stops: what a holder asks has its
// time-outs, and what the test asks is answered at last.
func newHastyClient(t *testing.T, s *devetcd.Server) *etcd.Client {
	t.Helper()
	return newClientOf(t, etcd.Config{Endpoints: []string{s.Endpoint()}})
}

func newClientOf(t *testing.T, cfg etcd.Config, interceptors ...grpc.UnaryClientInterceptor) *etcd.Client {
	t.Helper()
	c, err := etcd.New(cfg, grpc.WithChainUnaryInterceptor(append(interceptors, devetcdtest.Patiently)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// betweenRenewals returns a client for a holder, and what does something at the end of its
// next renewal, which waits for that: the one after it sees all that was done.
func betweenRenewals(t *testing.T, s *devetcd.Server) (c *etcd.Client, do func(what func() error) error) {
	t.Helper()
	wanted, done := make(chan func() error), make(chan error, 1)
	c = newClient(t, s, func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		err := invoke(ctx, method, req, reply, cc, opts...)
		if txn, ok := req.(*pb.TxnRequest); ok && len(txn.Compare) == 1 && strings.Contains(string(txn.Compare[0].Key), "/released/") { // isAsked's: its last
			select {
			case what := <-wanted:
				done <- what()
			default:
			}
		}
		return err
	})
	return c, func(what func() error) error {
		select {
		case wanted <- what:
			return <-done
		case <-time.After(4 * time.Minute):
			return errors.New("no renewal in four minutes")
		}
	}
}

// testConfig returns a configuration with a pool of the test's own, at each run of
// it.
func testConfig(t *testing.T, names ...string) Config {
	cfg := DefaultConfig()
	name := strings.NewReplacer("/", "-", "#", "-").Replace(t.Name())
	cfg.Pool = fmt.Sprintf("%.50s-%d", name, pools.Add(1))
	cfg.Owner = "homer"
	cfg.TTL = 10 * time.Minute // no lease runs out because the machine is slow
	if len(names) > 0 {
		cfg.Names = names
	}
	return cfg
}

var pools atomic.Int64

// A running holder, and the way to end it.
type running struct {
	*Holder
	ahead *atomic.Int64 // its clock, after start
	stop  func()        // ends Run and waits for it; may be called twice
}

// start runs a holder until the test ends, at the latest. By its clock no time passes but what the
// test lets pass: no request takes long, and nothing runs out.
func start(t *testing.T, c *etcd.Client, cfg Config, dir *state.Dir) running {
	t.Helper()
	return startWith(t, c, cfg, dir, func(*Holder) {})
}

// startWith is start of a holder that change has changed.
func startWith(t *testing.T, c *etcd.Client, cfg Config, dir *state.Dir, change func(*Holder)) running {
	t.Helper()
	ahead := new(atomic.Int64)
	h := newHolder(storeOf(c, cfg), dir, func() time.Duration { return time.Hour + time.Duration(ahead.Load()) }, testLog(t))
	change(h)
	r := run(t, h)
	r.ahead = ahead
	return r
}

// pass lets time pass by the holder's clock.
func (r running) pass(d time.Duration) {
	r.ahead.Add(int64(d))
	r.suspended()
}

func run(t *testing.T, h *Holder) running {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := h.Run(ctx); err != nil {
			t.Errorf("Run: got %v, want nil", err)
		}
	})
	r := running{Holder: h, stop: func() { cancel(); wg.Wait() }}
	t.Cleanup(r.stop)
	return r
}

func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// await waits until the holder has changed to where ok is true.
func (r running) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(4 * time.Minute)
	for {
		changed := r.Changed()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			c, valid := r.Current()
			t.Fatalf("waited for %s: state %s, claim %+v (%v)", what, r.State(), c, valid)
		}
	}
}

// held waits for a good claim and returns it.
func (r running) held(t *testing.T) *Claim {
	t.Helper()
	var c *Claim
	r.await(t, "a claim", func() (ok bool) { c, ok = r.Current(); return ok })
	return c
}

// heldLater is held where a claim is not used for one TTL, which it lets pass.
func (r running) heldLater(t *testing.T) *Claim {
	t.Helper()
	var passed *Claim
	r.await(t, "a claim", func() bool {
		c, ok := r.Current()
		if c != nil && !ok && c != passed {
			passed = c
			r.ahead.Add(int64(r.cfg.TTL))
		}
		return ok
	})
	return r.held(t)
}

func newState(t *testing.T, dir string) *state.Dir {
	t.Helper()
	s, err := state.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// look returns who holds the names of a pool.
func look(t *testing.T, c *etcd.Client, cfg Config) ([]fleet.Row, error) {
	t.Helper()
	v := fleet.New(cfg.Names, fleet.MaxOthers, func(ctx context.Context, asks []pool.AskPast) (pool.Glance, error) {
		return pool.Look(ctx, c, cfg.Pool, asks...)
	}).Refresh(t.Context())
	return slices.DeleteFunc(v.Rows, func(r fleet.Row) bool { return !r.Held }), v.Err
}
