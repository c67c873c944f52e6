package proxy

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/claimtest"
	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/outlet"
)

// aBatch returns a batch of these lines.
func aBatch(born time.Time, names *rewriters, unnamed bool, lines ...string) *batch {
	b := newBatch(born, names, unnamed)
	for _, ln := range lines {
		b.buf = append(b.buf, ln...)
		b.buf = append(b.buf, '\n')
	}
	b.lines = len(lines)
	return b
}

// accept puts batches as a reader would.
func accept(q queue, in ...*batch) {
	t := tally{}
	for _, b := range in {
		t.received += b.lines
	}
	q.accept(&t, in...)
}

// Small batches of one kind become one; others stay apart.
func TestQueueMerges(t *testing.T) {
	q := newStatsDQueue(1 << 20)
	now := time.Now()
	names := newRewriters(line.Rules{From: "host", To: "{name}"}, newClaim("Denali", time.Hour))
	accept(q, aBatch(now, nil, false, "a", "b"), aBatch(now, nil, false, "c"))
	accept(q, aBatch(now, names, false, "d"))
	accept(q, aBatch(now.Add(2*mergeSpan), names, false, "e"))
	accept(q, aBatch(now, nil, true, "f"))
	for _, want := range []string{"a\nb\nc\n", "d\n", "e\n"} {
		b, err := q.tryTake()
		if err != nil || string(b.buf) != want || b.lines != strings.Count(want, "\n") {
			t.Fatalf("got %q, %d lines, %v; want %q", b.buf, b.lines, err, want)
		}
	}
	if b := q.takeHeld(); string(b.buf) != "f\n" {
		t.Fatalf("held: %q", b.buf)
	}
}

// What waits takes little more memory than its lines, however reads fall: four
// fit into one buffer, or one and a half, or they come far apart.
func TestQueueMemory(t *testing.T) {
	ln := strings.Repeat("x", 99)
	for _, c := range []struct {
		lines int // of a read
		apart time.Duration
	}{{400, 0}, {1000, 0}, {1, time.Second}} {
		q := newStatsDQueue(64 << 20)
		now := time.Now()
		const reads = 500
		for i := range reads {
			accept(q, aBatch(now.Add(time.Duration(i)*c.apart), nil, false, slices.Repeat([]string{ln}, c.lines)...))
		}
		taken, count := 0, 0
		for range len(q.ready) {
			b, err := q.tryTake()
			if err != nil {
				t.Fatal(err)
			}
			taken += cap(b.buf)
			count += b.lines
			if b.lines*100 != len(b.buf) || strings.Count(string(b.buf), ln+"\n") != b.lines {
				t.Fatalf("a batch of %d lines has %d bytes", b.lines, len(b.buf))
			}
		}
		if count != reads*c.lines {
			t.Errorf("%d lines came out, want %d", count, reads*c.lines)
		}
		if most := count*100*3/2 + (backlog+1)*batchSize; taken > most {
			t.Errorf("%d bytes of lines take %d bytes", count*100, taken)
		}
	}
}

// StatsD lines are dropped after 10 s, wherever they wait.
func TestExpire(t *testing.T) {
	now := time.Now()
	names := newRewriters(line.Rules{From: "host", To: "{name}"}, newClaim("Denali", time.Hour))
	q := newStatsDQueue(1 << 20)
	for _, born := range []time.Time{now.Add(-11 * time.Second), now.Add(-9 * time.Second)} {
		accept(q, aBatch(born, names, false, "ready"), aBatch(born, nil, true, "held"))
		q.mu.Lock()
		q.books.queued++
		q.hold(&q.parked, aBatch(born, names, false, "parked"))
		q.mu.Unlock()
	}
	q.expire(now, time.Time{})
	if b := q.account(); b.dropped[tooOld] != 3 || b.queued != 3 || q.holding.Load() != 2 {
		t.Errorf("%d too old, %d queued", b.dropped[tooOld], b.queued)
	}
}

// Carbon lines are dropped only where all names have been taken for 10 s.
func TestCarbonExpire(t *testing.T) {
	now := time.Now()
	q := newTestQueue(line.Carbon, 1<<20).(*carbonQueue)
	for _, born := range []time.Time{now.Add(-11 * time.Second), now.Add(-9 * time.Second)} {
		accept(q, aBatch(born, nil, false, "ready"), aBatch(born, nil, true, "held"))
	}
	q.expire(now, time.Time{})
	if _, all := q.accounts(); all[0].queued != 4 {
		t.Errorf("lines do not wait for etcd: %d queued", all[0].queued)
	}
	q.expire(now, now.Add(-heldMax))
	if _, all := q.accounts(); all[0].dropped[noName] != 1 || all[0].queued != 3 || !q.isHolding() {
		t.Errorf("all names taken: %d dropped, %d queued", all[0].dropped[noName], all[0].queued)
	}
}

// The namer counts the 10 s from the moment at which all names were taken.
func TestNamerWaiting(t *testing.T) {
	names := noNames()
	q := [2]queue{newStatsDQueue(1 << 20), newTestQueue(line.Carbon, 1<<20)}
	n := newNamer(newNaming(names, line.Rules{From: "host", To: "{name}", Names: []string{"Denali"}}), q, &badLines{})
	now := time.Now()
	accept(q[line.Carbon], aBatch(now.Add(-time.Minute), nil, true, "host.a 1 1"))
	for _, c := range []struct {
		waiting time.Time
		left    bool
	}{{time.Time{}, true}, {now.Add(-9 * time.Second), true}, {now.Add(-11 * time.Second), false}} {
		if left := n.pass(now, c.waiting); left != c.left {
			t.Errorf("waiting since %v: lines left %v, want %v", c.waiting, left, c.left)
		}
	}
}

// The oldest lines are evicted, from whichever list.
func TestQueueEvictsOldest(t *testing.T) {
	now := time.Now()
	q := newStatsDQueue(10)
	accept(q, aBatch(now, nil, false, "r1aa"))
	accept(q, aBatch(now.Add(-time.Second), nil, true, "h1aa"))
	accept(q, aBatch(now.Add(time.Second), nil, true, "h2aa"))
	if b := q.takeHeld(); string(b.buf) != "h2aa\n" {
		t.Errorf("held: %q, want the younger", b.buf)
	}
	if b := q.account(); b.dropped[queueFull] != 1 {
		t.Errorf("%d dropped, want 1", b.dropped[queueFull])
	}
}

// A queue is drained when it is closed and all that was taken is booked.
func TestQueueDrained(t *testing.T) {
	q := newStatsDQueue(1 << 20)
	accept(q, aBatch(time.Now(), nil, false, "a", "b"))
	q.close()
	<-q.more
	b, _ := q.tryTake()
	q.forward("upstream", 1)
	if _, err := q.tryTake(); err != nil {
		t.Fatalf("with a line in hand: %v", err)
	}
	q.drop(1, sendError)
	<-q.more
	b.free()
	if _, err := q.tryTake(); !errors.Is(err, outlet.ErrDrained) {
		t.Errorf("take: %v", err)
	}
}

// At the end, what is in the hand of who never comes back is dropped, too.
func TestQueueAbandoned(t *testing.T) {
	q := newStatsDQueue(1 << 20)
	now := time.Now()
	accept(q, aBatch(now, nil, false, "a", "b"))
	q.tryTake()
	accept(q, aBatch(now, newRewriters(line.Rules{From: "host", To: "{name}"}, newClaim("Denali", time.Hour)), false, "c"), aBatch(now, nil, true, "d"))
	q.close()
	dropped := q.abandon()
	if b := q.account(); dropped != 4 || b.queued != 0 || b.received != 4 {
		t.Errorf("dropped %d, queued %d of %d lines; want all 4 dropped", dropped, b.queued, b.received)
	}
}

func TestBatchSplit(t *testing.T) {
	b := aBatch(time.Now(), nil, false, "Denali.a:1|c", "app.x:1|c", "Denali:1|c", "Denalix.a:1|c", "(Denali.b:1|c")
	n := newNaming(noNames(), line.Rules{From: "host", To: "{name}", Names: []string{"Denali"}})
	owned := b.split(n.of(newClaim("Denali", time.Hour)).owns)
	if string(owned.buf) != "Denali.a:1|c\nDenali:1|c\n(Denali.b:1|c\n" || owned.lines != 3 {
		t.Errorf("owned: %q", owned.buf)
	}
	if string(b.buf) != "app.x:1|c\nDenalix.a:1|c\n" || b.lines != 2 {
		t.Errorf("rest: %q", b.buf)
	}
}

func TestBadLinesRing(t *testing.T) {
	var r badLines
	for i := range 105 {
		r.add(time.Unix(int64(i), 0), line.StatsD, tooLong, "peer", []byte(strings.Repeat("x", i*3)))
	}
	got := r.list()
	if len(got) != 100 || got[0].Time.Unix() != 104 || got[99].Time.Unix() != 5 {
		t.Errorf("%d kept, from %v to %v", len(got), got[0].Time, got[len(got)-1].Time)
	}
	if len(got[0].Line) != 200 || len(got[99].Line) != 15 {
		t.Errorf("lines of %d and %d bytes", len(got[0].Line), len(got[99].Line))
	}
	for i := range 150 { // one sender of many does not push out the others
		r.add(time.Unix(int64(1000+i), 0), line.Carbon, reason(line.BadValue), "peer", []byte("x nan 1"))
		if i%50 == 0 {
			r.add(time.Unix(int64(1000+i), 0), line.Carbon, reason(line.BadFields), "peer", []byte("x"))
		}
	}
	count := map[string]int{}
	for _, b := range r.list() {
		count[b.Reason]++
	}
	if count["bad_value"] < 45 || count["bad_fields"] != 3 || count["too_long"] < 45 || len(r.list()) != 100 {
		t.Errorf("kept %v", count)
	}
	if got := r.list(); got[0].Time.Unix() != 1149 || !slices.IsSortedFunc(got, func(a, b BadLine) int { return b.Time.Compare(a.Time) }) {
		t.Errorf("the first is of %v, and they are not in order", got[0].Time)
	}
	if s := (BadLine{Time: time.Unix(0, 0), Protocol: "statsd", Reason: "no_value", Peer: "/run/\x1b[2J\n\"x", Line: []byte("a")}).String(); s != `1970-01-01T00:00:00Z statsd no_value "/run/\x1b[2J\n\"x" "a"` {
		t.Errorf("got %s", s)
	}
	if s := (BadLine{Time: time.Unix(0, 0), Protocol: "carbon", Reason: "control", Line: []byte("a\x00b")}).String(); s != `1970-01-01T00:00:00Z carbon control - "a\x00b"` {
		t.Errorf("got %s", s)
	}
}

// All words of the contract are there, and no other.
func TestReasons(t *testing.T) {
	want := strings.Fields(`too_long control empty_path bad_path no_value bad_rate bad_utf8 bad_fields bad_value bad_timestamp
		unterminated foreign_name unmatched no_name other_tenure too_old claim_lost queue_full spool_full send_error shutdown truncated framing no_point series_full`)
	seen := map[string]bool{}
	for r := range reasons {
		seen[r.String()] = true
	}
	for _, w := range want {
		if !seen[w] {
			t.Errorf("no reason %s", w)
		}
	}
	if len(seen) != len(want) {
		t.Errorf("got %d reasons, want %d: %v", len(seen), len(want), seen)
	}
}

// Parked lines are older than all that is ready, and go first once their claim
// is renewed.
func TestParkedGoFirst(t *testing.T) {
	claim := newClaim("Denali", -time.Second)
	names := newRewriters(line.Rules{From: "host", To: "{name}"}, claim)
	q := newStatsDQueue(1 << 20)
	now := time.Now()
	accept(q, aBatch(now, names, false, "a:1|g"))
	first, _ := q.tryTake()
	q.park(first)
	accept(q, aBatch(now, names, false, "a:2|g"))
	if b, _ := q.tryTake(); string(b.buf) != "a:2|g\n" {
		t.Fatalf("suspended: took %q", b.buf)
	}
	accept(q, aBatch(now, names, false, "a:3|g"))
	claimtest.Extend(claim, time.Hour)
	for _, want := range []string{"a:1|g\n", "a:3|g\n"} {
		if b, _ := q.tryTake(); string(b.buf) != want {
			t.Fatalf("renewed: took %q, want %q", b.buf, want)
		}
	}
	if q.holding.Load() != 0 {
		t.Errorf("%d lines are held", q.holding.Load())
	}
}
