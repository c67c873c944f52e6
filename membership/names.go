package membership

import (
	_ "embed"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// A Mountain is one of the 100 highest major mountains of North America.
type Mountain struct {
	Rank       int    // 1 is the highest
	Identifier string // MtLogan: fit for a metric path
	Name       string // Mount Logan
	Elevation  int    // metres
	Region     string
	Note       string // on the survey, mostly empty
}

//go:embed mountains.tsv
var mountainsTSV string

// mountains parses the table once; it is ours, so a mistake in it is a bug.
var mountains = sync.OnceValue(func() []Mountain {
	var table []Mountain
	for row := range strings.Lines(mountainsTSV) {
		field := strings.Split(strings.TrimSuffix(row, "\n"), "\t")
		if len(field) != 6 || field[0] == "rank" {
			continue // a comment or the heading
		}
		table = append(table, Mountain{
			Rank:       mustAtoi(field[0]),
			Identifier: field[1],
			Name:       field[2],
			Elevation:  mustAtoi(field[3]),
			Region:     field[4],
			Note:       field[5],
		})
	}
	return table
})

func mustAtoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic("membership: mountains.tsv: " + err.Error())
	}
	return n
}

// Mountains returns the identifiers of the 100 mountains, the highest first.
func Mountains() []string {
	names := make([]string, len(mountains()))
	for i, m := range mountains() {
		names[i] = m.Identifier
	}
	return names
}

// MountainTable returns the 100 mountains with their elevations, the highest first.
func MountainTable() []Mountain { return slices.Clone(mountains()) }

// PrefixedNumerics returns count names from prefix1 to prefix<count>:
// PrefixedNumerics("web-", 200) is web-1 … web-200.
func PrefixedNumerics(prefix string, count int) []string {
	names := make([]string, max(count, 0))
	for i := range names {
		names[i] = prefix + strconv.Itoa(i+1)
	}
	return names
}
