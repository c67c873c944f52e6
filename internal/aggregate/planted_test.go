package aggregate

import (
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/planted"
)

// The tests find what they say that they find.
func TestKilledSeesPlantedBugs(t *testing.T) {
	for name, edit := range map[string]planted.Edit{
		"a slot is flushed twice, with different values": {
			File: "internal/aggregate/aggregate.go",
			Old:  "	a.close(a.open.end())\n",
			New:  "",
		},
		"the open slot is forgotten at a kill": {
			File: "internal/aggregate/state.go",
			Old:  "			counted = a.addLine(p, a.open.Seq)\n",
			New:  "",
		},
		"it is forgotten how far the base of a flush has come": {
			File: "internal/aggregate/aggregate.go",
			Old:  "	a.endPart()\n",
			New:  "",
		},
		"a sealed slot is taken for the open one": {
			File: "internal/aggregate/state.go",
			Old:  "	if h.Slot.Seq != a.open.Seq {\n",
			New:  "	if false {\n",
		},
		"a slot that moves at a start is where it was, behind the next kill": {
			File: "internal/aggregate/aggregate.go",
			Old:  "			a.move(now.Unix())\n		}\n		a.journal.note(a.header())\n",
			New:  "			a.move(now.Unix())\n		}\n",
		},
		"what a base has of the open slot counts again": {
			File: "internal/aggregate/state.go",
			Old:  "		s.ahead = true\n",
			New:  "",
		},
		"the numbers of one file go on in the next": {
			File: "internal/aggregate/journal.go",
			Old:  "	j.before = j.given\n",
			New:  "",
		},
		"what comes behind a part of a base is forgotten": {
			File: "internal/aggregate/state.go",
			Old:  "		s.ahead = false\n",
			New:  "		_ = s\n",
		},
		"a tenure begins in the slot of the last holder": {
			File: "internal/aggregate/aggregate.go",
			Old:  "		a.close((now.Unix()/a.interval + 1) * a.interval)\n",
			New:  "",
		},
		"what is behind a gap in the table is not found": {
			File: "internal/aggregate/table.go",
			Old:  "			t.slots[gap], gap = t.slots[i], i\n",
			New:  "",
		},
		"a rate counts twice": {
			File: "internal/aggregate/parse.go",
			Old:  "rated = 1/rate, ",
			New:  "rated = 1/rate/rate, ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			planted.Patience(t, edit)
			planted.TestFails(t, "./internal/aggregate", []string{"-test.run=^Test(Killed|KilledTwiceBeforeSlot|Lines|Table|Tenure|Checkpoint|Moved)$", "-test.failfast", "-test.timeout=2m", "-aggregate.schedules=20"}, edit)
		})
	}
}
