package membership

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/statedir"
	"github.com/prefixproxy/prefixproxy/membership/state"
)

// hanging are files whose writing takes until a moment.
type hanging struct {
	*statedir.Dir
	until chan struct{}
}

func (h hanging) WriteFile(name string, data []byte) error {
	<-h.until
	return h.Dir.WriteFile(name, data)
}

// A state directory whose disk hangs costs no renewal: the claim is good past the
// horizon that it began with.
func TestDiskThatHangs(t *testing.T) {
	t.Parallel()
	dir, err := statedir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	disk := hanging{dir, make(chan struct{})}
	h := start(t, newClient(t, sharedEtcd), testConfig(t), state.New(disk, state.Place{}))
	c := h.held(t)
	h.pass(c.Left())
	if got := h.held(t); got != c {
		t.Errorf("past the horizon of the grant: claim %p, want %p", got, c)
	}
	close(disk.until)
	h.stop()
}

// A state directory whose disk hangs when a name is lost is not taken for an etcd that fails.
func TestDiskThatHangsIsNotEtcd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		start := time.Now()
		dir := state.New(hanging{until: make(chan struct{})}, state.Place{})
		h := newHolder(&store{route: noEtcd{}, cfg: DefaultConfig()}, dir, func() time.Duration { return time.Since(start) }, slog.New(slog.NewTextHandler(&log, nil)))
		h.outage.heard = true
		h.lease = &lease{ttl: h.cfg.TTL, spent: true}
		lost := &tenancy{Claim: newClaim("Denali", "", 1, 1, "1", h.now), under: h.lease}
		h.lease.end = h.endOf(lost, string(Deleted), nil)

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if held := h.acquire(ctx); held != nil {
			t.Errorf("got %s", held.name)
		}
		if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `msg="no name is claimed before the state directory has taken the end of the last tenure"`) {
			t.Errorf("got the log\n%swant one line about the state directory", got)
		}
		if _, failing := h.Outage(); failing {
			t.Error("an outage of etcd is shown")
		}
	})
}
