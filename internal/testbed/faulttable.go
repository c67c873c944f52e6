//go:build linux

package testbed

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A comparedFault is a fault that other relays suffer as well, at a rate in
// lines a second.
type comparedFault struct {
	fault
	rate int
}

var comparedFaults = []comparedFault{
	{fault{name: "the receiver stalls for 2 s, is killed, and is back after 1 s", run: func(r *rig) {
		r.receiver.tell(manner{Stall: true})
		r.pause(2 * time.Second)
		r.receiver.kill()
		r.pause(time.Second)
		r.receiver.start()
		r.pause(5 * time.Second)
	}}, 10_000},
	{fault{name: "the receiver is down for 10 s", run: func(r *rig) {
		r.receiver.kill()
		r.pause(10 * time.Second)
		r.receiver.start()
		r.pause(5 * time.Second)
	}}, 10_000},
	{fault{name: "the relay is killed while the receiver is down for 3 s", run: func(r *rig) {
		r.receiver.kill()
		r.pause(1500 * time.Millisecond)
		r.restart()
		r.pause(1500 * time.Millisecond)
		r.receiver.start()
		r.pause(5 * time.Second)
	}}, 10_000},
	{fault{name: "the relay is killed while all is well", run: func(r *rig) {
		r.pause(time.Second)
		r.restart()
		r.pause(3 * time.Second)
	}}, 50_000},
}

const tableHead = `| fault | lines/s | relay | written | lost | | of these at an end | doubled |
|---|---|---|---|---|---|---|---|
`

// The marks between which a page holds the table.
const (
	tableBegin = "<!-- table: go test ./internal/testbed -run FaultsTable -faults.table=docs/FAULTS.md -->\n"
	tableEnd   = "<!-- end of the table -->\n"
)

// writeTable puts rows in the place of the table that a page holds, given by
// its path from the module's root.
func writeTable(path string, rows []string) error {
	if !filepath.IsAbs(path) {
		path = filepath.Join("../..", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), tableBegin)
	if !ok {
		return fmt.Errorf("%s has no mark where the table begins", path)
	}
	_, after, ok := strings.Cut(rest, tableEnd)
	if !ok {
		return fmt.Errorf("%s has no mark where the table ends", path)
	}
	table := tableHead + strings.Join(rows, "\n") + "\n"
	return os.WriteFile(path, []byte(before+tableBegin+table+tableEnd+after), 0o644)
}
