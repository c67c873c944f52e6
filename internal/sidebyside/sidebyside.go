// Package sidebyside is for tests that mostly wait: more of them run at once than there are
// processors, and each has ports of its own.
package sidebyside

import (
	"flag"
	"strconv"
	"testing"
)

// M is a testing.M that runs so many parallel tests at once, unless -parallel says how many.
type M struct {
	*testing.M
	Most int
}

// Run runs the tests, and returns the exit code.
func (m M) Run() int {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		flag.Set("test.parallel", strconv.Itoa(m.Most))
	}
	return m.M.Run()
}
