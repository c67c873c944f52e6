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
			Old:  "	a.closeUpTo(a.open.end())\n",
			New:  "",
		},
		"the open slot is forgotten at a kill": {
			File: "internal/aggregate/state.go",
			Old:  "		if counted = r.addLine(p, r.open.Seq); p.kind",
			New:  "		if p.kind",
		},
		"a base that was not finished is taken for one that was": {
			File: "internal/aggregate/state.go",
			Old:  "restores: hasBase}",
			New:  "restores: true}",
		},
		"a sealed slot is taken for the open one": {
			File: "internal/aggregate/state.go",
			Old:  "	case r.open.Seq == 0, r.open.Seq == h.Slot.Seq:\n",
			New:  "	case true:\n",
		},
		"a slot that moves at a start is where it was, behind the next kill": {
			File: "internal/aggregate/aggregate.go",
			Old:  "			a.move(now.Unix())\n		}\n		a.note()\n",
			New:  "			a.move(now.Unix())\n		}\n",
		},
		"what a base has of the open slot counts again": {
			File: "internal/aggregate/state.go",
			Old:  "	r.take(s, s.seq+1)",
			New:  "",
		},
		"the numbers of one file go on in the next": {
			File: "internal/aggregate/journal.go",
			Old:  ", before: l.given}",
			New:  ", before: l.before}",
		},
		"what comes before a series of a base counts twice": {
			File: "internal/aggregate/state.go",
			Old:  "		s.cur = v\n	}\n	return s\n",
			New:  "		s.cur += v\n	}\n	return s\n",
		},
		"a tenure begins in the slot of the last holder": {
			File: "internal/aggregate/aggregate.go",
			Old:  "		a.closeUpTo((now.Unix()/a.interval + 1) * a.interval)\n",
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
