package aggregate

import (
	"math"
	"slices"

	"github.com/DataDog/sketches-go/ddsketch"
	"github.com/DataDog/sketches-go/ddsketch/store"
)

// A timer is the samples of a slot, all of them while they fit. When they don't, a sketch
// takes their place: its values are accurate to 1 %.
type timer struct {
	cur, old samples
	spare    []float64 // for the next
}

type samples struct {
	values []float64
	weight float64 // Σ 1/rate: the count

	sketch             *ddsketch.DDSketch // nil while values has them all
	n                  float64            // of sketch
	sum, squares       float64
	lower, upper       float64
	reserved, sketched int64 // what is taken of the rooms
}

// smallTimer is how many samples each timer has room for, whatever the others take.
const smallTimer = 64

// The sketch: 1 %, and at most so many bins. When there are more, the lowest are merged.
const (
	accuracy = 0.01
	maxBins  = 2048
)

func (t *timer) shift() {
	t.old, t.cur, t.spare = t.cur, samples{values: t.spare}, nil
}

// sample counts a sample if there is room.
func (x *sums) sample(s *samples, v, weight float64) bool {
	if s.sketch == nil && len(s.values) >= smallTimer && len(s.values) == cap(s.values) {
		// They grow by half: what is reserved is what they take.
		more := int64(8 * max(smallTimer, cap(s.values)/2))
		if x.samples.take(more) {
			s.reserved += more
			s.values = slices.Grow(s.values, int(more)/8)
		} else if !x.toSketch(s) {
			return false
		}
	}
	if s.sketch != nil {
		s.addToSketch(v)
	} else {
		s.values = append(s.values, v)
	}
	s.weight += weight
	return true
}

// toSketch replaces samples for which there is no room with a sketch, if there is room for
// that.
func (x *sums) toSketch(s *samples) bool {
	if !x.sketches.take(sketchCost) {
		return false
	}
	s.sketched += sketchCost
	s.sketch, _ = ddsketch.LogCollapsingLowestDenseDDSketch(accuracy, maxBins)
	for _, v := range s.values {
		s.addToSketch(v)
	}
	x.samples.give(s.reserved)
	s.values, s.reserved = nil, 0
	x.sketched++
	return true
}

func (s *samples) addToSketch(v float64) {
	if s.n == 0 {
		s.lower, s.upper = v, v
	}
	s.n++
	s.sum += v
	s.squares += v * v
	s.lower, s.upper = min(s.lower, v), max(s.upper, v)
	if limit := s.sketch.MaxIndexableValue(); math.Abs(v) > limit {
		v = math.Copysign(limit, v)
	}
	s.sketch.Add(v)
}

// A stat is one of a timer's values.
type stat struct {
	name  string
	value float64
}

// stats appends what statsd's process_metrics makes of samples, in a slot of so many
// seconds. A percentile that is NaN there is left out.
//
// https://github.com/statsd/statsd/blob/v0.9.0/lib/process_metrics.js
func (s *samples) stats(dst []stat, percentiles []percentile, seconds float64) []stat {
	if s.sketch != nil {
		return s.sketchStats(dst, percentiles, seconds)
	}
	n := len(s.values)
	if n == 0 {
		return append(dst, stat{".count", 0}, stat{".count_ps", 0})
	}
	v := s.values
	slices.Sort(v)
	all, allSquares := sumsOf(v)
	for _, p := range percentiles {
		in, bound, sum, square := n, v[n-1], v[0], v[0]*v[0]
		mean := v[0]
		if n > 1 {
			in = int(math.Floor(math.Abs(p.percent)/100*float64(n) + 0.5))
			switch {
			case in == 0:
				continue
			case p.percent > 0:
				bound = v[in-1]
				sum, square = sumsOf(v[:in])
			case in == n:
				bound, sum, square = v[0], math.NaN(), math.NaN()
			default:
				below, squareBelow := sumsOf(v[:n-in])
				bound, sum, square = v[n-in], all-below, allSquares-squareBelow
			}
			mean = sum / float64(in)
		}
		dst = p.append(dst, float64(in), mean, bound, sum, square)
	}
	mean := all / float64(n)
	diffs := 0.0
	for _, x := range v {
		diffs += float64((x - mean) * (x - mean))
	}
	median := v[n/2]
	if n%2 == 0 {
		median = (v[n/2-1] + v[n/2]) / 2
	}
	return s.append(dst, seconds, math.Sqrt(diffs/float64(n)), v[n-1], v[0], all, allSquares, mean, median)
}

// sumsOf adds up values and their squares, from first to last.
func sumsOf(v []float64) (sum, squares float64) {
	sum, squares = v[0], v[0]*v[0]
	for _, x := range v[1:] {
		sum, squares = x+sum, float64(x*x)+squares
	}
	return sum, squares
}

// append appends everything but the percentiles.
func (s *samples) append(dst []stat, seconds, std, upper, lower, sum, squares, mean, median float64) []stat {
	return append(dst,
		stat{".std", std}, stat{".upper", upper}, stat{".lower", lower},
		stat{".count", s.weight}, stat{".count_ps", s.weight / seconds},
		stat{".sum", sum}, stat{".sum_squares", squares}, stat{".mean", mean}, stat{".median", median})
}

// sketchStats is stats for a sketch. It walks over the bins, lowest first.
func (s *samples) sketchStats(dst []stat, percentiles []percentile, seconds float64) []stat {
	for _, p := range percentiles {
		in := math.Floor(math.Abs(p.percent)/100*s.n + 0.5)
		if in == 0 {
			continue
		}
		left, sum, squares, bound := in, 0.0, 0.0, s.lower
		if p.percent < 0 {
			left = s.n - in // what lies below, and is taken off
		}
		s.ascend(func(v, n float64) bool {
			n = min(n, left)
			bound, sum, squares, left = v, sum+v*n, squares+v*v*n, left-n
			return left > 0
		})
		if p.percent < 0 {
			bound, _ = s.sketch.GetValueAtQuantile((s.n - in) / max(s.n-1, 1))
			sum, squares = s.sum-sum, s.squares-squares
		}
		dst = p.append(dst, in, sum/in, min(max(bound, s.lower), s.upper), sum, squares)
	}
	mean := s.sum / s.n
	median, _ := s.sketch.GetValueAtQuantile(0.5)
	std := math.Sqrt(max(0, s.squares/s.n-mean*mean))
	return s.append(dst, seconds, std, s.upper, s.lower, s.sum, s.squares, mean, min(max(median, s.lower), s.upper))
}

// ascend calls yield with the values of the sketch, in order, until that returns false.
func (s *samples) ascend(yield func(v, n float64) bool) {
	type bin struct{ v, n float64 }
	var bins []bin
	s.sketch.ForEach(func(v, n float64) bool {
		bins = append(bins, bin{v, n})
		return false
	})
	slices.SortFunc(bins, func(x, y bin) int {
		if x.v < y.v {
			return -1
		}
		return 1
	})
	for _, b := range bins {
		if !yield(b.v, b.n) {
			return
		}
	}
}

// A percentile is one of the configuration, with the names of its values.
type percentile struct {
	percent                          float64
	count, mean, bound, sum, squares string
}

func newPercentile(p float64) percentile {
	text := string(appendNumber(nil, p))
	clean := ""
	dotted := false
	for _, c := range text {
		switch {
		case c == '.' && !dotted:
			clean, dotted = clean+"_", true
		case c == '-':
			clean += "top"
		default:
			clean += string(c)
		}
	}
	bound := ".upper_"
	if p <= 0 {
		bound = ".lower_"
	}
	return percentile{p, ".count_" + clean, ".mean_" + clean, bound + clean, ".sum_" + clean, ".sum_squares_" + clean}
}

func (p percentile) append(dst []stat, in, mean, bound, sum, squares float64) []stat {
	return append(dst, stat{p.count, in}, stat{p.mean, mean}, stat{p.bound, bound}, stat{p.sum, sum}, stat{p.squares, squares})
}

// decodeSketch reads what Encode wrote.
func decodeSketch(b []byte) (*ddsketch.DDSketch, error) {
	return ddsketch.DecodeDDSketch(b, func() store.Store { return store.NewCollapsingLowestDenseStore(maxBins) }, nil)
}
