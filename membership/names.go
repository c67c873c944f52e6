package membership

import (
	_ "embed"
	"slices"
	"strconv"
	"strings"
	"sync"
)

//go:embed mountains.tsv
var mountainsTSV string

// mountains parses the table once.
var mountains = sync.OnceValue(func() (names []string) {
	for row := range strings.Lines(mountainsTSV) {
		if field := strings.Split(row, "\t"); len(field) == 6 && field[0] != "rank" { // no comment, nor the heading
			names = append(names, field[1])
		}
	}
	return names
})

// Mountains returns the names of the 100 highest major mountains of North America, fit
// for a metric path (MtLogan), the highest first.
func Mountains() []string { return slices.Clone(mountains()) }

// PrefixedNumerics returns count names from prefix1 to prefix<count>:
// PrefixedNumerics("web-", 200) is web-1 … web-200.
func PrefixedNumerics(prefix string, count int) []string {
	names := make([]string, max(count, 0))
	for i := range names {
		names[i] = prefix + strconv.Itoa(i+1)
	}
	return names
}
