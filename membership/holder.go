package membership

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/internal/retry"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
	"github.com/prefixproxy/prefixproxy/membership/pool"
	"github.com/prefixproxy/prefixproxy/membership/state"
)

// The rhythm of a holder.
const (
	maxRenewEvery = 2500 * time.Millisecond // or TTL/6
	releaseTime   = 2 * time.Second         // for two requests
	waitAtMost    = time.Minute             // and up to as much again: then a waiting holder asks without having been told of a free name
)

// A Holder claims a name, keeps it, and claims another when it is lost.
//
// Run's goroutine owns it, and changes what anybody may see: current.
type Holder struct {
	*current
	requests

	cfg     Config
	wall    func() time.Time // for what Carbon lines and people are told, and no lease
	records records
	own     *state.Own

	lease   *lease             // nil: none
	granted []clientv3.LeaseID // the last pool.EarlierTenures that etcd granted us: whatever was claimed under them is ours
	waited  bool               // all names were taken, and we have said so

	avoid      string        // a name that we were asked to let go
	avoidUntil time.Duration // by now
}

// A lease is one that etcd granted to us.
type lease struct {
	id    clientv3.LeaseID
	ttl   time.Duration // as granted
	term  uint64        // of etcd in which it was granted; 0: not known
	sent  time.Duration // by now: when the grant was sent
	spent bool          // nothing is claimed under it any more: to be revoked

	end func(context.Context) error // first puts the end of its tenure on record; nil: that is done
}

// NewHolder returns a holder that has not started and asks etcd for nothing yet. It refuses a
// configuration that does not Validate. Without a state directory (nil) every start is a host's first. A
// nil log discards.
func NewHolder(c *etcd.Client, cfg Config, dir *state.Dir, log *slog.Logger) (*Holder, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Owner == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("find the host name to be our owner: %w", err)
		}
		cfg.Owner = pool.ShowOwner(host)
	}
	h := newHolder(storeOf(c, cfg), dir, boottime, log)
	h.pause = retry.SleepLong
	return h, nil
}

func newHolder(store *store, dir *state.Dir, now clock, log *slog.Logger) *Holder {
	cfg := store.cfg
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log = log.With("pool", cfg.Pool)
	return &Holder{
		current: newCurrent(),
		requests: requests{
			store: store, now: now, jitter: retry.Randomly, pause: retry.Sleep, log: log,
			outage: outage{log: log, causes: make(map[string]time.Time)},
		},
		cfg:     cfg,
		wall:    time.Now,
		records: records{timeOut: requestTime(cfg.TTL), jitter: retry.Randomly, log: log},
		own:     state.NewOwn(dir, log),
	}
}

// Pool returns the pool of the configuration.
func (h *Holder) Pool() string { return h.cfg.Pool }

// Owner returns the owner: the configuration's, or the host name.
func (h *Holder) Owner() string { return h.cfg.Owner }

// Run claims a name and keeps it, and claims another if it is lost, until ctx ends; then it
// releases the name (or keeps it: Config.OnStop) and returns nil. End ctx only when nothing is
// sent under the name any more. Call Run only once.
func (h *Holder) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer h.pulse.Rest()
	saving, saveLast := context.WithCancel(context.WithoutCancel(ctx))
	defer saveLast()
	wg.Go(func() { h.own.Run(saving) })
	defer h.records.all.Wait()

	h.own.Recall(h.cfg.Pool, h.cfg.Names)
	var held *tenancy // the last one
	for ctx.Err() == nil {
		if held = h.acquire(ctx); held == nil {
			break
		}
		if h.Stats().Claims == 1 {
			wg.Go(func() { h.warnOldServer(ctx) })
		}
		h.keep(ctx, held)
	}
	h.release(context.WithoutCancel(ctx), held)
	return nil
}

// extend moves the horizon of held as far as the last renewal allows, if the claim may be used at
// all by now. It returns whether that ended a suspension.
func (h *Holder) extend(held *tenancy) (resumed bool) {
	resumed = h.now() >= held.usableFrom() && held.extendTo(held.under.sent+pool.HorizonShare(held.under.ttl))
	if left := held.Left(); left > 0 {
		h.atHorizon.Reset(left)
	}
	return resumed
}

// release gives the name of held back when Run ends, or lets its lease run out. ctx has not ended.
func (h *Holder) release(ctx context.Context, held *tenancy) {
	c := h.claim.Load()
	h.letGo(Released)
	switch {
	case h.lease == nil:
	case c == nil:
		h.within(ctx, releaseTime/2, h.revoke) // the lease of an attempt, which runs out by itself if it must
	case held.isShared(h.now()):
		h.log.Warn("name not released, its last holder may still be there; it is free when its lease has run out", "name", c.name, "within", held.under.ttl)
	case h.cfg.OnStop == Keep:
		h.log.Info("name kept for a restart", "name", c.name, "for", held.under.ttl)
	default:
		err := h.free(ctx, held)
		if revoked := h.within(ctx, releaseTime/2, h.revoke); err != nil && revoked != nil { // either of the two frees the name
			h.log.Warn("name not released; it is free when its lease has run out", "name", c.name, "within", held.under.ttl, "err", err)
			return
		}
		h.log.Info("name released", "name", c.name)
		h.own.Remember(state.Claim{Pool: h.cfg.Pool, Name: c.name})
	}
}

// warnOldServer warns of a server with known bugs that touch claims.
func (h *Holder) warnOldServer(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, h.cfg.TTL)
	defer cancel()
	if version, err := h.store.Version(ctx); err == nil && isOld(version) {
		h.log.Warn("old etcd server", "version", version, "hint", "upgrade to 3.4.44, 3.5.33, 3.6.14, 3.7.1 or later: older ones renew leases after their end, and have holes in the access checks of transactions and watches")
	}
}

// isOld says whether an etcd of this version renews leases after their end, or has holes in the
// access checks of transactions and watches. These versions fixed both; none before 3.4 does.
func isOld(version string) bool {
	var v [3]int
	if n, _ := fmt.Sscanf(version, "%d.%d.%d", &v[0], &v[1], &v[2]); n < 3 {
		return false
	}
	for _, mended := range [][3]int{{3, 4, 44}, {3, 5, 33}, {3, 6, 14}, {3, 7, 1}} {
		if v[0] == mended[0] && v[1] == mended[1] {
			return v[2] < mended[2]
		}
	}
	return slices.Compare(v[:], []int{3, 4, 0}) < 0
}
