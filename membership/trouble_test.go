package membership

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/internal/devetcd"
	"github.com/prefixproxy/prefixproxy/internal/devetcd/devetcdtest"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
)

// restored runs two hosts, of which the first alone is in the backup that etcd is restored
// from, and returns them when the second has let go of its claim and has another.
func restored(t *testing.T, backUp func(server *devetcd.Server, c *etcd.Client, data string) (restore func())) (first, second running) {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	server, err := devetcd.Start(data)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	client := newHastyClient(t, server)
	cfg := testConfig(t)
	first = start(t, client, cfg, nil)
	first.held(t)
	restore := backUp(server, client, data)

	l := listener{testLog(t).Handler(), "name not used yet, its last holder may still be there", "because", make(chan string, 1)}
	second = startWith(t, client, cfg, nil, func(h *Holder) { h.log = slog.New(l) })
	old := second.held(t)
	server.Close()
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	restore()
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	<-old.Done()
	if got := <-l.heard; got != whyDataLoss {
		t.Errorf("the new claim is not used because %q, want %q", got, whyDataLoss)
	}
	if a, b := first.heldLater(t), second.heldLater(t); a.name == b.name {
		t.Errorf("both hold %s", a.name)
	}
	return first, second
}

// An etcd that was restored from a backup without --bump-revision: an older
// state is back, with its keys and leases.
func TestEtcdIsRestored(t *testing.T) {
	t.Parallel()
	_, second := restored(t, func(server *devetcd.Server, _ *etcd.Client, data string) (restore func()) {
		server.Close()
		if err := os.CopyFS(data+".backup", os.DirFS(data)); err != nil {
			t.Fatal(err)
		}
		if err := server.Restart(); err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := os.Rename(data+".backup", data); err != nil {
				t.Fatal(err)
			}
		}
	})
	// Expired: the first one saw it before, and its marker has brought the revision up
	// to where it was.
	if got := second.Stats().Losses; got[DataLoss]+got[Expired] != 1 {
		t.Errorf("losses: got %v, want 1 data_loss (or expired)", got)
	}
}

// An etcd that was restored as OPERATIONS advises it, by the real etcdutl: the revision
// has been bumped, the raft term tells.
func TestEtcdIsRestoredByEtcdutl(t *testing.T) {
	etcdutl := os.Getenv("PREFIXPROXY_TEST_ETCDUTL")
	if etcdutl == "" {
		t.Skip("PREFIXPROXY_TEST_ETCDUTL is not set: the path of etcdutl 3.6 or later")
	}
	t.Parallel()
	first, second := restored(t, func(server *devetcd.Server, c *etcd.Client, data string) (restore func()) {
		for range 3 { // elections: terms that the restored one has not had
			server.Close()
			if err := server.Restart(); err != nil {
				t.Fatal(err)
			}
		}
		saveSnapshot(t, c, data+".snapshot")
		return func() {
			cmd := exec.CommandContext(t.Context(), etcdutl, "snapshot", "restore", data+".snapshot",
				"--data-dir", data, "--bump-revision", "1000000", "--mark-compacted")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", cmd, err, out)
			}
		}
	})
	if b := second.held(t); b.revision < 1000000 {
		t.Errorf("the second holds %s at revision %d; want a bumped one", b.name, b.revision)
	}
	t.Logf("first: %v, second: %v", first.Stats().Losses, second.Stats().Losses)
}

func saveSnapshot(t *testing.T, c *etcd.Client, path string) {
	t.Helper()
	r, err := c.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, r); err != nil {
		t.Fatal(err)
	}
}

// A listener is a log's handler that tells of one message.
type listener struct {
	slog.Handler
	message, key string
	heard        chan string // what the message says at key
}

func (l listener) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == l.message {
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == l.key {
				select {
				case l.heard <- a.Value.String():
				default:
				}
			}
			return true
		})
	}
	return l.Handler.Handle(ctx, r)
}

func (l listener) WithAttrs(attrs []slog.Attr) slog.Handler {
	l.Handler = l.Handler.WithAttrs(attrs)
	return l
}

// A user who may not do any more what he could: it is said with the remedy, and
// when that is done all is well without a restart.
func TestRefused(t *testing.T) {
	t.Parallel()
	const role = "prefixproxy"
	end := clientv3.GetPrefixRangeEnd("/prefixproxy/")
	for _, test := range []struct {
		name       string
		take, give func(ctx context.Context, root *etcd.Client) error
		want       string // in the hint
	}{
		{"role taken", func(ctx context.Context, root *etcd.Client) error {
			_, err := root.RoleRevokePermission(ctx, role, "/prefixproxy/", end)
			return err
		}, func(ctx context.Context, root *etcd.Client) error {
			_, err := root.RoleGrantPermission(ctx, role, "/prefixproxy/", end, clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		}, "readwrite on the prefix /prefixproxy/"},
		{"password expired", func(ctx context.Context, root *etcd.Client) error {
			_, err := root.UserChangePassword(ctx, "prefixproxy", "another")
			return err
		}, func(ctx context.Context, root *etcd.Client) error {
			_, err := root.UserChangePassword(ctx, "prefixproxy", "p")
			return err
		}, "etcd.password_file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := devetcdtest.Start(t)
			devetcdtest.EnableUsers(t, newHastyClient(t, server).Client)
			root := newUserClient(t, server, "root", "r")
			l := listener{testLog(t).Handler(), "etcd refuses us", "hint", make(chan string, 1)}
			r := startWith(t, newUserClient(t, server, "prefixproxy", "p"), testConfig(t), nil, func(h *Holder) { h.outage.log = slog.New(l) })
			defer r.stop()
			r.held(t)

			if err := test.take(t.Context(), root); err != nil {
				t.Fatal(err)
			}
			if hint := <-l.heard; !strings.Contains(hint, test.want) {
				t.Errorf("hint: got %q, want %q in it", hint, test.want)
			}
			c, _ := r.Current()
			r.pass(c.Left()) // no renewal succeeds
			if c.Valid() {
				t.Error("the claim is good past the horizon that it had")
			}
			if err := test.give(t.Context(), root); err != nil {
				t.Fatal(err)
			}
			r.held(t)
		})
	}
}

func newUserClient(t *testing.T, s *devetcd.Server, user, password string) *etcd.Client {
	t.Helper()
	return newClientOf(t, etcd.Config{
		Endpoints: []string{s.Endpoint()}, Username: user, Password: func() (string, error) { return password, nil },
	})
}

// The wall clock decides about nothing: a claim outlives its jumps, and ends by
// the other clock.
func TestWallClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newModel()
		h, way := newSim(t, e)
		jump := time.Duration(0)
		h.wall = func() time.Time {
			jump = -2*jump + time.Hour
			return time.Now().Add(jump)
		}
		r := run(t, h)
		c := r.held(t)
		pass(t, time.Hour)
		if got, ok := r.Current(); got != c || !ok {
			t.Errorf("after an hour: claim %p good %v, want %p true", got, ok, c)
		}
		way.exactly(true, 0)
		pass(t, c.Left())
		if got, ok := r.Current(); got != c || ok {
			t.Errorf("past the horizon: claim %p good %v, want %p false", got, ok, c)
		}
	})
}

// scripted runs a simulation whose faults the test makes. The host h has a name,
// and is cut off after a second, so that its claim is good for a while; the
// others have not begun.
func scripted(t *testing.T, faults func(s *simulation, h, other, third *host)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := newSimulation(5, dir, testLog(t))
		s.cfg.TTL = 15 * time.Second
		h := s.hosts[0]
		h.start()
		s.pause(time.Second)
		h.process.way.set(func(w *way) { w.weather.lost = 1 })
		s.later(2*s.cfg.TTL, func() { h.process.way.set(func(w *way) { w.weather.lost = 0 }) })
		faults(s, h, s.hosts[1], s.hosts[2])
		s.finish()
		for _, v := range s.judge.violations {
			t.Errorf("schedule of %s: %s; what happened:\n%s", t.Name(), v, s.story())
		}
	})
}

// A copy waits one TTL before it uses the name of its original. It does not
// forget that when it starts again.
func TestCopyThatStartsAgain(t *testing.T) {
	scripted(t, func(s *simulation, h, other, _ *host) {
		h.copyTo(other)
		other.start()
		s.pause(time.Second)
		other.kill()
		other.start()
		s.pause(time.Second)
		if got := other.process.holder.State(); got != Suspended {
			t.Errorf("state of the copy after its second start: got %s, want suspended", got)
		}
	})
}

// A copy that ends while its original may still use the name does not free it
// for a third.
func TestCopyThatEnds(t *testing.T) {
	scripted(t, func(s *simulation, h, other, third *host) {
		h.copyTo(other)
		other.start()
		s.pause(time.Second)
		other.quit()
		third.start()
		s.pause(time.Second)
		c, ok := third.process.holder.Current()
		if !ok || c.name == s.cfg.Names[0] {
			t.Errorf("the third host has a name: %v, and it is %s; want another than %[2]s", ok, s.cfg.Names[0])
		}
	})
}

// The next holder of a name that somebody took from its holder waits for that one, and
// ends while it does: who comes then takes no second for its own in which the first may
// have had the name.
func TestNextHolderEndsInVain(t *testing.T) {
	scripted(t, func(s *simulation, _, other, third *host) {
		s.deleted(s.cfg.Names[0])
		other.start()
		s.pause(time.Second)
		other.quit()
		third.start()
		s.pause(4 * s.cfg.TTL)
	})
}

// The machine of a host that is cut off is cloned, and somebody deletes its key: the
// clone claims the name again, by a state that may be its own of another boot, and waits
// for its original.
func TestCloneOfAHostThatIsCutOff(t *testing.T) {
	scripted(t, func(s *simulation, h, other, _ *host) {
		other.disk, other.cloned = h.disk, true
		h.copyTo(other)
		s.deleted(s.cfg.Names[0])
		other.start()
		s.pause(2 * s.cfg.TTL)
	})
}
