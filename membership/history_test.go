package membership

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/membership/pool"
	"github.com/prefixproxy/prefixproxy/membership/state"
)

// at returns a moment of the tests' day.
func at(second float64) time.Time { return time.UnixMilli(int64(second * 1000)) }

func tenure(name string, from, to float64) pool.Tenure {
	t := pool.Tenure{Name: name, From: at(from)}
	if to != 0 {
		t.To = at(to)
	}
	return t
}

func TestNameAt(t *testing.T) {
	const drop = ""
	for _, test := range []struct {
		name         string
		from         float64
		ours, others []pool.Tenure
		floor        int64
		want         map[int64]string
	}{
		{
			"nobody held it", 1000.5, nil, nil,
			math.MinInt64, map[int64]string{-5: "Denali", 0: "Denali", 999: "Denali", 1000: "Denali", 1001: "Denali", math.MaxInt64: "Denali"},
		}, {
			"we had another name, and then none", 1000.5, []pool.Tenure{tenure("MtLogan", 500.2, 700.9)}, nil,
			701, map[int64]string{500: "Denali", 501: "MtLogan", 700: "MtLogan", 701: "Denali", 999: "Denali", 1000: "Denali"},
		}, {
			"we had it ourselves", 1000.5, []pool.Tenure{tenure("Denali", 500.2, 999.9)}, nil,
			1000, map[int64]string{400: "Denali", 700: "Denali", 1000: "Denali"},
		}, {
			"another had it long ago: its seconds and 5 more", 1000.5, nil, []pool.Tenure{tenure("Denali", 500.2, 700.4)},
			706, map[int64]string{499: "Denali", 500: drop, 700: drop, 705: drop, 706: "Denali", 1000: "Denali"},
		}, {
			"another had it until just before: from the claim on", 1000.5, nil, []pool.Tenure{tenure("Denali", 500.2, 999.8)},
			1001, map[int64]string{999: drop, 1000: drop, 1001: "Denali"},
		}, {
			"another left no end: until the claim", 1000, nil, []pool.Tenure{tenure("Denali", 500.2, 0)},
			1000, map[int64]string{499: "Denali", 500: drop, 999: drop, 1000: "Denali"},
		}, {
			"another left no end, and one more came, and waited for it", 1000, nil,
			[]pool.Tenure{{Name: "Denali", From: at(500), TTL: 15 * time.Second}, tenure("Denali", 600.5, 600.5)},
			616, map[int64]string{499: "Denali", 500: drop, 600: drop, 615: drop, 616: "Denali"},
		}, {
			"we had claimed it, and not used it: that ended nothing", 1050, []pool.Tenure{tenure("Denali", 1014.5, 1014.6)},
			[]pool.Tenure{tenure("Denali", 500, 990), tenure("Denali", 1020, 1040)},
			1046, map[int64]string{990: drop, 1000: drop, 1014: drop, 1045: drop, 1046: "Denali"},
		}, {
			"another had it before and after us", 1000.5,
			[]pool.Tenure{tenure("Denali", 600, 700), tenure("MtLogan", 800.5, 900)},
			[]pool.Tenure{tenure("Denali", 500, 599.5), tenure("Denali", 700.5, 950)},
			956, map[int64]string{
				499: "Denali", 500: drop, 599: drop, 600: "Denali", 604: "Denali", 700: "Denali",
				701: drop, 800: drop, 801: "MtLogan", 900: "MtLogan", 901: drop, 955: drop, 956: "Denali",
			},
		}, {
			"another had it twice, and it was free in between: the later one's", 1000.5, nil,
			[]pool.Tenure{tenure("Denali", 500, 600), tenure("Denali", 800, 850)},
			856, map[int64]string{499: "Denali", 500: drop, 605: drop, 606: drop, 799: drop, 855: drop, 856: "Denali"},
		}, {
			"another's clock is ahead: from our claim on", 1000, nil, []pool.Tenure{tenure("Denali", 500, 1200)},
			1000, map[int64]string{999: drop, 1000: "Denali", 1100: "Denali"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := claimAfter("Denali", time.Hour, at(test.from), test.ours, test.others)
			if got := c.Floor(); got != test.floor {
				t.Errorf("floor: got %d, want %d", got, test.floor)
			}
			for second, want := range test.want {
				if got, ok := c.NameAt(second); got != want || ok != (want != drop) {
					t.Errorf("second %d: got %q, %v; want %q", second, got, ok, want)
				}
			}
		})
	}
}

// What is not known because it is too far back is another's.
func TestNameAtBeforeWhatIsKnown(t *testing.T) {
	c := Claim{name: "Denali", history: newHistory(1000, "Denali", state.Tenures{{Name: "MtLogan", Start: 100, End: 200}}, []pool.Tenure{tenure("Denali", 500, 600)}, true)}
	for second, want := range map[int64]string{-1: "", 150: "MtLogan", 400: "", 550: "", 606: "Denali"} {
		if got, _ := c.NameAt(second); got != want {
			t.Errorf("second %d: got %q, want %q", second, got, want)
		}
	}
}

// Against a slow, obvious twin.
func TestNameAtIsTheRule(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		var ours, others []pool.Tenure
		now := 100.0
		for range r.IntN(8) { // one host after the other has the name, or we have some name
			from := now + float64(r.IntN(80))/4
			to := from + float64(r.IntN(160))/4
			now = to
			if r.IntN(2) == 0 {
				ours = append(ours, tenure([]string{"Denali", "MtLogan"}[r.IntN(2)], from, to))
			} else {
				others = append(others, tenure("Denali", from, to))
			}
		}
		claim := now + float64(r.IntN(40))/4
		c := claimAfter("Denali", time.Hour, at(claim), ours, others)
		for second := int64(90); float64(second) < claim+10; second++ {
			want := slowNameAt(second, pool.FirstSecond(at(claim)), ours, others)
			if got, _ := c.NameAt(second); got != want {
				t.Fatalf("seed %d, second %d: got %q, want %q; claim at %v, ours %v, others %v", seed, second, got, want, claim, ours, others)
			}
			if second >= c.Floor() && want != "Denali" {
				t.Fatalf("seed %d: floor %d, and second %d is %q", seed, c.Floor(), second, want)
			}
		}
	}
}

func slowNameAt(second, start int64, ours, others []pool.Tenure) string {
	if second >= start {
		return "Denali"
	}
	name := ""
	for _, t := range ours { // the later one wins
		if pool.FirstSecond(t.From) <= second && second <= t.To.Unix() {
			name = t.Name
		}
	}
	if name != "" {
		return name
	}
	for _, t := range others {
		if second > t.To.Unix()+5 {
			continue
		}
		if second >= t.From.Unix() {
			return ""
		}
		// It is before t: between t and another one?
		free, between := true, false
		for _, before := range slices.Concat(ours, others) {
			used := slices.ContainsFunc(others, func(o pool.Tenure) bool { return o == before }) || pool.FirstSecond(before.From) <= before.To.Unix()
			if before.Name == "Denali" && before.From.Before(t.From) && used {
				free, between = free && before.To.Unix() < second, true
			}
		}
		if free && between {
			return ""
		}
	}
	return "Denali"
}

func BenchmarkNameAt(b *testing.B) {
	c := claimAfter("Denali", time.Hour, at(1000), nil, []pool.Tenure{tenure("Denali", 500, 600)})
	for _, second := range []int64{2000, 550} {
		b.Run(fmt.Sprint(second), func(b *testing.B) {
			for b.Loop() {
				c.NameAt(second)
			}
		})
	}
}

// claimAfter returns a claim whose tenure began at from, after earlier ones.
func claimAfter(name string, valid time.Duration, from time.Time, ours, others []pool.Tenure) *Claim {
	own := make(state.Tenures, len(ours))
	for i, t := range ours {
		own[i] = state.Tenure{Name: t.Name, Start: pool.FirstSecond(t.From), End: t.To.Unix()}
	}
	return testClaim(name, valid, newHistory(pool.FirstSecond(from), name, own, others, false))
}
