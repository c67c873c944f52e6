package aggregate

import (
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/planted"
)

// The tests find what they say that they find.
func TestKilledSeesPlantedBugs(t *testing.T) {
	planted.Patience(t)
	for name, edit := range map[string]planted.Edit{
		"a slot is flushed twice, with different values": {
			File: "internal/aggregate/slot.go",
			Old:  "	a.close(a.open.Start, a.open.end())\n	a.seal()",
			New:  "	a.seal()",
		},
		"the open slot is forgotten at a kill": {
			File: "internal/aggregate/state.go",
			Old:  "		a.Add(lines[:end], func([]byte, Reason) {})\n",
			New:  "",
		},
		"the gauges of a slot are those of the next": {
			File: "internal/aggregate/state.go",
			Old:  "min(s.seq, seq), s.old, ",
			New:  "min(s.seq, seq), s.cur, ",
		},
		"a sealed slot is taken for the open one": {
			File: "internal/aggregate/state.go",
			Old:  "	if h.Slot.Seq != a.open.Seq {\n",
			New:  "	if false {\n",
		},
		"a tenure begins in the slot of the last holder": {
			File: "internal/aggregate/slot.go",
			Old:  "	case begun:\n",
			New:  "	case false:\n",
		},
		"what is behind a gap in the table is not found": {
			File: "internal/aggregate/table.go",
			Old:  "			t.slots[gap], gap = t.slots[i], i\n",
			New:  "",
		},
		"a rate counts twice": {
			File: "internal/aggregate/parse.go",
			Old:  "		m.weight *= 1 / rate\n",
			New:  "		m.weight *= 1 / rate / rate\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			planted.TestFails(t, "./internal/aggregate", []string{"-test.run=^Test(Killed|Lines|Table|Tenure|Checkpoint)$", "-test.failfast", "-test.timeout=2m"}, edit)
		})
	}
}
