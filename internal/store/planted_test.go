package store

import (
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/planted"
)

// The model, and what stands beside it, finds what it says that it finds.
func TestModelFindsPlantedBugs(t *testing.T) {
	for name, edit := range map[string]planted.Edit{
		"what is evicted is not counted": {
			File: "internal/store/cursor.go",
			Old:  "	c.books.Dropped[why] += uint64(c.needs.lose(sp, why))\n",
			New:  "	c.needs.lose(sp, why)\n",
		},
		"a cursor skips at the edge of the tiers": {
			File: "internal/store/session.go",
			Old:  "	c.queues[fresh].Move(records.Span{To: live}, &c.queues[late])\n",
			New:  "	c.queues[fresh].Remove(records.Span{To: live})\n",
		},
		"an acknowledgement counts for another destination": {
			File: "internal/store/session.go",
			Old:  "	if c.mature(now) {\n",
			New:  "	for _, other := range s.cursors {\n		other.deliver(c.acked)\n	}\n	if c.mature(now) {\n",
		},
		"a torn record is taken for a whole one": {
			File: "internal/records/records.go",
			Old:  "	if le.Uint32(b[12:]) != h.sum(p, b, r.lines) {\n		return r, false\n	}\n",
			New:  "",
		},
		"a young session is believed": {
			File: "internal/store/session.go",
			Old:  "	if now.Sub(c.began) >= young {\n",
			New:  "	if true {\n",
		},
		"what was delivered is not remembered": {
			File: "internal/store/session.go",
			Old:  "	if c.mature(now) {\n		s.settle()\n",
			New:  "	if c.mature(now) {\n		s.sweep()\n",
		},
		"a segment goes before it is on disk": {
			File: "internal/store/files.go",
			Old:  "	return o.rename(d, name+newSuffix, name)\n",
			New:  "	return nil\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			planted.Patience(t, edit)
			schedules := "12"
			switch name {
			case "what is evicted is not counted", "a torn record is taken for a whole one":
				schedules = "60"
			case "a segment goes before it is on disk": // any test that reads from there sees it
				schedules = "1"
			}
			planted.TestFails(t, "./internal/store", []string{"-test.run=^(TestModel|TestAgain|TestLiveFirst)$", "-test.failfast", "-test.timeout=2m", "-store.schedules=" + schedules, "-store.trace=1000"}, edit)
		})
	}
}
