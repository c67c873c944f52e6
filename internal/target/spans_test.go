package target

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/claimtest"
	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// The seconds of a name are those in which Carbon lines were written under it: the rule
// of membership.Claim.NameAt, in random pasts.
func TestSpansFollowCarbonLines(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 0))
		names := []string{"Denali", "MtLogan"}
		var own, others []pool.Tenure
		end := map[string]float64{} // of each name's last tenure, in seconds
		at, last := 1000.0, 0.0
		for range 8 {
			name := names[r.IntN(len(names))]
			for range r.IntN(3) { // of others
				from := end[name] + 0.3 + r.Float64()*20
				to := from + 1 + r.Float64()*20
				if from < 900 {
					from, to = 900, 900+r.Float64()*50
				}
				others = append(others, pool.Tenure{Name: name, Owner: "other", From: second(from), To: second(to)})
				end[name] = to
			}
			from := max(at, end[name]+0.3, last+0.1) + r.Float64()*9
			to := from + 1 + r.Float64()*30
			own = append(own, pool.Tenure{Name: name, Owner: "web17", From: second(from), To: second(to)})
			end[name], last = to, to
		}
		spans := SpansOf("web17", slices.Concat(own, others), time.Unix(1<<33, 0))
		for i, current := range own {
			var before []pool.Tenure
			for _, o := range others {
				if o.Name == current.Name && o.From.Before(current.From) {
					before = append(before, o)
				}
			}
			claim := claimtest.Make(claimtest.Claim{Name: current.Name, Valid: time.Hour, Start: current.From, Ours: own[:i], Others: before}).(*membership.Claim)
			// While it is held, come lines of its own time, and of its time without a name.
			since := int64(math.MinInt64)
			if i > 0 {
				since = own[i-1].To.Unix() + 1
			}
			for s := max(since, pool.FirstSecond(current.From)-30, pool.FirstSecond(own[0].From)); s <= current.To.Unix(); s++ {
				want, ok := claim.NameAt(s)
				if !ok {
					want = ""
				}
				if got := strings.Join(namesAt(spans, s), " "); got != want {
					t.Fatalf("seed %d, second %d of tenure %d: got %q, want %q\nown %v\nothers %v\nspans %v", seed, s, i, got, want, own, others, spans)
				}
			}
		}
	}
}

func second(s float64) time.Time { return time.UnixMilli(int64(s * 1000)).UTC() }

func namesAt(spans []Span, s int64) (names []string) {
	for _, span := range spans {
		if span.From <= s && s <= span.To && !slices.Contains(names, span.Name) {
			names = append(names, span.Name)
		}
	}
	return names
}

// A host that restarts often under its name has a short target.
func TestSpansOfOneName(t *testing.T) {
	var own []pool.Tenure
	for i := range 500 {
		own = append(own, pool.Tenure{Name: "Denali", From: second(float64(1000 + 10*i)), To: second(float64(1008 + 10*i))})
	}
	own[499].To, own[499].Lasts = time.Time{}, true
	if got, want := fmt.Sprint(SpansOf("", own, time.Now())), fmt.Sprint([]Span{{"Denali", 1000, math.MaxInt64}}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A crash leaves no end: the name is the host's until it has another, or until now.
func TestSpansOfCrashes(t *testing.T) {
	own := []pool.Tenure{{Name: "Denali", From: second(1000)}, {Name: "MtLogan", From: second(1100.5)}}
	if got, want := fmt.Sprint(SpansOf("", own, second(1200))), fmt.Sprint([]Span{{"Denali", 1000, 1100}, {"MtLogan", 1101, 1200}}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	own[0].Lasts, own[1].Lasts = true, true // two daemons with one owner string
	if got, want := fmt.Sprint(SpansOf("", own, second(1200))), fmt.Sprint([]Span{{"Denali", 1000, math.MaxInt64}, {"MtLogan", 1101, math.MaxInt64}}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}
