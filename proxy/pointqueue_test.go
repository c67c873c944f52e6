package proxy

import (
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/claimtest"
	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/outlet"
	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
	"github.com/prefixproxy/prefixproxy/internal/store"
	"github.com/prefixproxy/prefixproxy/membership"
)

// A counting is what stands between ingest and Carbon's store, where StatsD becomes
// points. Second 0 is when the test begins, and begins a slot.
type counting struct {
	t      *testing.T
	points *pointQueue
	names  *fakeNames
	proxy  *Proxy
	ingest *ingest
	namer  *namer
	begun  time.Time
}

func count(t *testing.T, names *fakeNames) *counting {
	t.Helper()
	cfg := testConfig(Upstream{Address: Address{Network: "carbon"}}, Upstream{Address: Address{Network: "stdout"}})
	cfg.Rewrite.Unmatched = line.DropUnmatched
	cfg.Aggregate.Percentiles = nil
	p, err := New(cfg, names, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.carbon.open(store.Places{}, cfg.Forward.Carbon, p.log); err != nil {
		t.Fatal(err)
	}
	points := p.statsd.(*pointQueue)
	if err := points.open(cfg, nil); err != nil {
		t.Fatal(err)
	}
	p.carbon.store.Cursor("").Begin(time.Now(), outlet.Session{Upstream: "upstream", Certain: true})
	h := p.newHandler(line.StatsD, func() string { return "a client" }).(*handler)
	return &counting{
		t: t, points: points, names: names, proxy: p, ingest: h.ingest, begun: time.Now(),
		namer: newNamer(p.naming, [2]queue{points, p.carbon}, p.bad),
	}
}

// after lets time go on until so many seconds from the beginning.
func (c *counting) after(seconds float64) {
	sidebyside.Pass(time.Until(c.begun.Add(time.Duration(seconds * float64(time.Second))))) // of the bubble
}

// take takes lines as a reader does.
func (c *counting) take(lines ...string) {
	c.ingest.begin(time.Now(), c.proxy.naming.current(c.points))
	c.ingest.datagram([]byte(strings.Join(lines, "\n")))
	c.points.accept(&c.ingest.tally, c.ingest.end()...)
}

// flush flushes what is due, names what is held, and returns what leaves: the counts
// alone, as "name count @second".
func (c *counting) flush() (all []string) {
	c.t.Helper()
	for wait := time.Duration(0); wait == 0; {
		wait, _ = c.points.step(time.Now())
	}
	for c.namer.nameHeld(c.proxy.carbon, c.namer.ingests[line.Carbon]) {
	}
	defer balance(c.t, c.proxy)
	return c.leaving()
}

// leaving returns what leaves, likewise.
func (c *counting) leaving() (all []string) {
	cursor := c.proxy.carbon.store.Cursor("")
	for {
		lines, _, _ := cursor.Next(time.Now())
		if len(lines) == 0 {
			break
		}
		for text := range strings.Lines(string(lines)) {
			var second int64
			f := strings.Fields(text)
			fmt.Sscan(f[2], &second)
			if strings.HasSuffix(f[0], ".count") && f[1] != "0" {
				all = append(all, fmt.Sprintf("%s %s @%d", f[0], f[1], second-c.begun.Unix()))
			}
		}
		cursor.Wrote(time.Now(), len(lines))
		cursor.Ack(time.Now(), outlet.Peer{Acked: 1 << 60})
	}
	return all
}

func (c *counting) want(want ...string) {
	c.t.Helper()
	if got := c.flush(); !slices.Equal(got, want) {
		c.t.Errorf("got %q, want %q", got, want)
	}
}

// dropped returns how many lines were dropped.
func (c *counting) dropped(proto line.Protocol, why reason) uint64 {
	return c.proxy.Status().Lines[proto.String()].Dropped[why.String()]
}

// tenureFrom returns a claim that begins now, behind earlier tenures.
func tenureFrom(name string, ours, others []claimtest.Tenure) *membership.Claim {
	now := time.Now()
	return claimtest.Make(claimtest.Claim{
		Name: name, Valid: time.Hour, Revision: now.UnixNano(), Start: now, Ours: ours, Others: others,
	}).(*membership.Claim)
}

// Points are named by the tenure that their slot falls into, and a slot in which a
// tenure begins is nobody's but the last holder's.
func TestPointsAcrossTenures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := count(t, noNames())
		c.after(2)
		c.take("host.x:1|c") // before the claim: with it, in the next slot
		c.after(4)
		c.names.set(tenureFrom("MtLogan", nil, nil), membership.Held)
		c.take("host.x:10|c")
		from := time.Now()
		c.after(25)
		c.take("host.x:100|c", "MtLogan.x:1000|c", "Denali.x:1|c") // the last is another's
		c.after(26)
		c.names.set(nil, membership.Claiming)
		c.take("host.x:10000|c", "MtLogan.x:1|c") // the last may be anybody's
		to := time.Now()
		c.after(27)
		c.names.set(tenureFrom("Denali",
			[]claimtest.Tenure{{Name: "MtLogan", From: from, To: to}},
			[]claimtest.Tenure{{Name: "Denali", From: c.begun.Add(-time.Hour), To: c.begun.Add(22 * time.Second)}}), membership.Held)
		c.take("host.x:100000|c")
		c.after(60)
		c.want("MtLogan.x.count 11 @10", "MtLogan.x.count 11100 @20", "Denali.x.count 100000 @30")
		if n := c.dropped(line.StatsD, reason(line.ForeignName)); n != 1 {
			t.Errorf("%d lines are foreign, want 1", n)
		}
		if n := c.dropped(line.StatsD, noName); n != 1 {
			t.Errorf("%d lines had no name, want 1", n)
		}
	})
}

// What was read before a tenure begins, and is counted then, is not of the slot that had begun
// between the two.
func TestReadBeforeTenure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := count(t, noNames())
		c.after(9.9)
		c.ingest.begin(time.Now(), c.proxy.naming.current(c.points))
		c.ingest.datagram([]byte("host.x:1|c"))
		c.after(10.2)
		c.names.set(tenureFrom("Denali", nil, []claimtest.Tenure{{Name: "Denali", From: c.begun, To: time.Now()}}), membership.Held)
		c.points.accept(&c.ingest.tally, c.ingest.end()...)
		c.after(60)
		c.want("Denali.x.count 1 @20")
	})
}

// Without a name slots are flushed as ever; their points wait, and what falls into
// another host's tenure is dropped and counted.
func TestPointsWithoutName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := count(t, noNames())
		c.take("host.x:1|c")
		c.after(15)
		c.want()
		c.take("host.x:10|c")
		c.after(45)
		c.want()
		c.names.set(tenureFrom("Denali", nil, []claimtest.Tenure{{Name: "Denali", From: c.begun.Add(-time.Hour), To: c.begun.Add(3 * time.Second)}}), membership.Held)
		c.take("host.x:100|c")
		c.want("Denali.x.count 10 @10")
		if n := c.dropped(line.Carbon, otherTenure); n != 2 {
			t.Errorf("%d points fell into another tenure, want 2: count and rate", n)
		}
		c.after(90)
		c.want("Denali.x.count 100 @50")
	})
}

// While the claim is suspended the name is known: what stands under it is ours.
func TestPointsWhileSuspended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := noNames()
		claim := newClaim("Denali", -time.Second) // its clock is not the bubble's
		names.set(claim, membership.Held)
		c := count(t, names)
		c.flush()
		c.after(12)
		c.take("Denali.x:1|c", "host.x:1|c")
		c.after(40)
		c.want()
		claimtest.Extend(claim, time.Hour)
		c.want("Denali.x.count 2 @10")
	})
}

// A slot is of the tenure in which it begins. What is counted for one that has not begun
// at a stop waits for the next process: the name may be another's by then.
func TestStopBeforeSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		c := count(t, noNames())
		if err := c.points.open(c.proxy.cfg, aggregateDirs("", dir)); err != nil {
			t.Fatal(err)
		}
		c.after(2)
		c.names.set(tenureFrom("MtLogan", nil, nil), membership.Held)
		c.take("host.x:5|c")
		c.points.close()
		c.points.end()
		if got := c.leaving(); got != nil {
			t.Errorf("%q leave before their slot begins", got)
		}
		if b := balance(t, c.proxy)["statsd"]; b.Queued != 1 {
			t.Errorf("got %+v", b)
		}
		c.after(35) // others had the name
		c.names = noNames()
		next := count(t, c.names)
		next.begun = c.begun
		if err := next.points.open(c.proxy.cfg, aggregateDirs("", dir)); err != nil {
			t.Fatal(err)
		}
		next.want()
		next.after(36)
		next.names.set(tenureFrom("Denali", nil, []claimtest.Tenure{{Name: "Denali", From: c.begun, To: c.begun.Add(32 * time.Second)}}), membership.Held)
		next.want()
		next.after(60)
		next.want("Denali.x.count 5 @40")
	})
}

// A name that is lost before its first slot begins has no point there.
func TestLostBeforeSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := count(t, noNames())
		c.after(2)
		c.names.set(tenureFrom("MtLogan", nil, nil), membership.Held)
		c.take("host.x:1|c")
		c.after(4)
		c.names.set(nil, membership.Claiming)
		c.take("host.x:10|c")
		c.after(12)
		c.names.set(tenureFrom("Denali", nil, []claimtest.Tenure{{Name: "Denali", From: c.begun, To: c.begun.Add(11 * time.Second)}}), membership.Held)
		c.take("host.x:100|c")
		c.after(40)
		c.want("Denali.x.count 111 @20")
	})
}

// What a killed process had counted leaves, too, when the next one forwards StatsD.
func TestPointsOfOneThatForwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		c := count(t, holding("Denali"))
		if err := c.points.open(c.proxy.cfg, aggregateDirs("", dir)); err != nil {
			t.Fatal(err)
		}
		c.take("host.x:5|c")
		for _, want := range [][]string{{"Denali.x.count 5 @10"}, nil} {
			cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, Upstream{Address: Address{Network: "stdout"}})
			cfg.Aggregate.Percentiles = nil
			next, err := New(cfg, c.names, Options{Places: store.Places{State: dir}})
			if err != nil {
				t.Fatal(err)
			}
			next.carbon = c.proxy.carbon
			next.statsd.(*statsdForwarder).left.carbon = next.carbon
			if err := next.statsd.open(cfg, aggregateDirs("", dir)); err != nil {
				t.Fatal(err)
			}
			if got := c.leaving(); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			if b := balance(t, next)["statsd"]; b.Adopted != uint64(len(want)) || b.Forwarded != uint64(len(want)) {
				t.Errorf("got %+v", b)
			}
		}
	})
}

// What is refused is shown as clients write it, and its line is in the books.
func TestPointsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := count(t, holding("Denali"))
		long := "host." + strings.Repeat("n", 251)
		c.take("host.x:y|c", long+":1|c", "host.x:1|y", "_e{1,1}:a|b", "app.x:1|c", "host.x:1|c:y|c")
		var bad []string
		for _, b := range c.proxy.bad.list() {
			bad = append(bad, fmt.Sprintf("%s %s %s", b.Peer, b.Reason, b.Line))
		}
		if want := []string{"a client no_point _e{1,1}:a|b", "a client no_point host.x:1|y", "a client bad_path " + long[:200], "a client bad_value host.x:y|c"}; !slices.Equal(bad, want) {
			t.Errorf("got %q, want %q", bad, want)
		}
		b := balance(t, c.proxy)["statsd"]
		if b.Received != 6 || b.Queued != 1 || b.Dropped["no_point"] != 2 || b.Dropped["unmatched"] != 1 {
			t.Errorf("got %+v", b)
		}
	})
}

// Files that fail now and again are said to fail once, and to work when they have for a while.
func TestTrouble(t *testing.T) {
	var log strings.Builder
	q := &pointQueue{log: slog.New(slog.NewTextHandler(&log, nil))}
	now := time.Now()
	for i, trouble := range []error{nil, io.EOF, nil, io.EOF, nil, nil, nil, nil, nil, nil, nil, nil, io.EOF} {
		q.tell(trouble, now.Add(time.Duration(10*i)*time.Second))
	}
	var said []string
	for ln := range strings.Lines(log.String()) {
		_, rest, _ := strings.Cut(ln, "level=")
		level, _, _ := strings.Cut(rest, " ")
		said = append(said, level)
	}
	if want := []string{"ERROR", "INFO", "ERROR"}; !slices.Equal(said, want) {
		t.Errorf("got %q, want %q", said, want)
	}
}

// However long a slot is, its flush is over soon: the lines file grows meanwhile.
func TestFlushOfLongSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := count(t, holding("KingPeak"))
		cfg := c.proxy.cfg
		cfg.Aggregate.Interval = time.Hour
		c.points.configure(cfg)
		c.take("host.x:1|c")
		c.after(7200)
		c.want()
		c.after(7220)
		c.want("KingPeak.x.count 1 @3600")
	})
}

// A flush is spread by the place of the name in the list.
func TestSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := count(t, holding("Denali"))
		names := c.proxy.naming.rules.Load().nameless.rules.Names
		last := names[len(names)-1]
		for name, want := range map[string]time.Duration{names[0]: 0, last: 3 * time.Second * time.Duration(len(names)-1) / time.Duration(len(names))} {
			if got := c.proxy.naming.spread(newClaim(name, time.Hour), 3*time.Second); got != want {
				t.Errorf("%s flushes after %v, want %v", name, got, want)
			}
		}
	})
}
