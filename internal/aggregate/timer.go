package aggregate

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/DataDog/sketches-go/ddsketch"
)

// A timer is the samples of a slot, all of them while they fit. When they don't, a sketch
// takes their place: its values are accurate to 1 %.
type timer struct{ cur, old samples }

type samples struct {
	values []float64
	weight float64 // Σ 1/rate: the count

	sketch             *ddsketch.DDSketch // nil while values has them all
	bins               []bin              // of sketch; the lowest first, once it is in order
	n                  float64            // how many there are: this, and the next four, of sketch, or once values is in order
	sum, squares       float64
	lower, upper       float64
	reserved, sketched int64 // what is taken of the rooms
}

// A bin is n samples of which each is taken for v.
type bin struct{ v, n float64 }

// smallTimer is how many samples each timer has room for, whatever the others take.
const smallTimer = 16

// The sketch: 1 %, and at most so many bins. When there are more, the lowest are merged.
const (
	accuracy = 0.01
	maxBins  = 2048
)

// sample counts a sample if there is room.
func (x *sums) sample(s *samples, v, weight float64) bool {
	if s.sketch == nil && len(s.values) >= smallTimer && len(s.values) == cap(s.values) {
		// They grow by half: what is reserved is what they take.
		more := int64(8 * max(smallTimer, cap(s.values)/2))
		if x.samples.take(more) {
			s.reserved += more
			s.values = append(make([]float64, 0, cap(s.values)+int(more)/8), s.values...)
		} else if !x.toSketch(s) {
			return false
		}
	}
	if s.sketch == nil {
		s.values = append(s.values, v)
	} else if !x.addToSketch(s, v) {
		return false
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
	sketched := samples{weight: s.weight, sketched: sketchCost}
	sketched.sketch, _ = ddsketch.LogCollapsingLowestDenseDDSketch(accuracy, maxBins)
	for _, v := range s.values {
		if !x.addToSketch(&sketched, v) {
			x.sketches.give(sketched.sketched)
			return false
		}
	}
	x.samples.give(s.reserved)
	*s = sketched
	x.sketched++
	return true
}

func (x *sums) addToSketch(s *samples, v float64) bool {
	if !x.addToBin(s, v, 1) {
		return false
	}
	if s.n == 0 {
		s.lower, s.upper = v, v
	}
	s.n++
	s.sum += v
	s.squares += v * v
	s.lower, s.upper = min(s.lower, v), max(s.upper, v)
	return true
}

// addToBin adds n samples to the bin of v, or to the last one if v is beyond it. There are bins
// for all between two of one sign: those that are to be added need room.
func (x *sums) addToBin(s *samples, v, n float64) bool {
	size := min(math.Abs(v), s.sketch.MaxIndexableValue())
	if size <= s.sketch.MinIndexableValue() {
		s.sketch.AddWithCount(0, n)
		return true
	}
	bins := s.sketch.GetPositiveValueStore()
	if v < 0 {
		bins = s.sketch.GetNegativeValueStore()
	}
	at := s.sketch.Index(size)
	more := binsCost(at, at)
	if !bins.IsEmpty() {
		first, _ := bins.MinIndex()
		last, _ := bins.MaxIndex()
		more = binsCost(min(first, at), max(last, at)) - binsCost(first, last)
	}
	if more > 0 && !x.sketches.take(more) { // the room may have been made smaller
		return false
	}
	s.sketched += more
	bins.AddWithCount(at, n)
	return true
}

// binsCost returns what the bins from first to last take.
func binsCost(first, last int) int64 { return binCost * int64(min(last-first+1+spareBins, maxBins)) }

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
	s.order()
	if s.n == 0 {
		return append(dst, stat{".count", 0}, stat{".count_ps", 0})
	}
	n := int(s.n)
	for _, p := range percentiles {
		in, bound, sum, squares, mean := n, s.upper, s.lower, s.lower*s.lower, s.lower
		if n > 1 {
			in = int(math.Round(math.Abs(p.percent) / 100 * s.n))
			switch {
			case in == 0:
				continue
			case p.percent > 0:
				bound = s.at(in - 1)
				sum, squares = s.lowest(in)
			default:
				bound = s.at(n - in)
				sum, squares = s.lowest(n - in)
				sum, squares = s.sum-sum, s.squares-squares
			}
			mean = sum / float64(in)
		}
		dst = append(dst, stat{p.count, float64(in)}, stat{p.mean, mean}, stat{p.bound, bound}, stat{p.sum, sum}, stat{p.squares, squares})
	}
	mean, median := s.sum/s.n, s.at(n/2)
	if n%2 == 0 {
		median = (s.at(n/2-1) + median) / 2
	}
	return append(dst,
		stat{".std", s.deviation(mean)}, stat{".upper", s.upper}, stat{".lower", s.lower},
		stat{".count", s.weight}, stat{".count_ps", s.weight / seconds},
		stat{".sum", s.sum}, stat{".sum_squares", s.squares}, stat{".mean", mean}, stat{".median", median})
}

// order makes s ready for the methods below.
func (s *samples) order() {
	if s.sketch != nil {
		s.sketch.ForEach(func(v, n float64) bool {
			s.bins = append(s.bins, bin{min(max(v, s.lower), s.upper), n})
			return false
		})
		slices.SortFunc(s.bins, func(x, y bin) int { return cmp.Compare(x.v, y.v) })
	} else if n := len(s.values); n > 0 {
		slices.Sort(s.values)
		s.n, s.lower, s.upper = float64(n), s.values[0], s.values[n-1]
		s.sum, s.squares = s.lowest(n)
	}
}

// lowest adds up the k lowest samples, and their squares, from first to last. Of none the
// sums are NaN, as with statsd.
func (s *samples) lowest(k int) (sum, squares float64) {
	if k == 0 {
		return math.NaN(), math.NaN()
	}
	if s.sketch == nil {
		for _, v := range s.values[:k] {
			sum, squares = v+sum, float64(v*v)+squares
		}
		return sum, squares
	}
	left := float64(k)
	for _, b := range s.bins {
		n := min(b.n, left)
		sum, squares, left = sum+b.v*n, squares+b.v*b.v*n, left-n
	}
	return sum, squares
}

// at returns the i-th lowest sample.
func (s *samples) at(i int) float64 {
	if s.sketch == nil {
		return s.values[i]
	}
	for _, b := range s.bins {
		if i -= int(b.n); i < 0 {
			return b.v
		}
	}
	return s.upper
}

// deviation returns the standard deviation of all samples.
func (s *samples) deviation(mean float64) float64 {
	if s.sketch != nil {
		return math.Sqrt(max(0, s.squares/s.n-mean*mean))
	}
	diffs := 0.0
	for _, v := range s.values {
		diffs += float64((v - mean) * (v - mean))
	}
	return math.Sqrt(diffs / s.n)
}

// A percentile is one of the configuration, with the names of its values.
type percentile struct {
	percent                          float64
	count, mean, bound, sum, squares string
}

func newPercentile(p float64) percentile {
	name := strings.Replace(strings.Replace(string(appendNumber(nil, p)), ".", "_", 1), "-", "top", 1)
	bound := ".upper_"
	if p <= 0 {
		bound = ".lower_"
	}
	return percentile{p, ".count_" + name, ".mean_" + name, bound + name, ".sum_" + name, ".sum_squares_" + name}
}
