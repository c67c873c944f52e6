package membership

import (
	"cmp"
	"strings"
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/planted"
)

// Bugs that a holder might have. Each turns the simulation red; if one does
// not, the simulation is too mild to trust.
func TestSimulationFindsPlantedBugs(t *testing.T) {
	for _, test := range []struct {
		name string
		edit planted.Edit
		want string // what the judge says; "": it depends
		sees string // the test that does; "": TestSimulation
	}{
		{"the horizon counts from the reply", planted.Edit{
			File: "membership/keep.go",
			Old:  "held.under.sent = sent",
			New:  "held.under.sent = h.now()",
		}, "two valid claims", ""},
		{"the gate is off", planted.Edit{
			File: "membership/current.go",
			Old:  "if claim == nil || !claim.Valid() {",
			New:  "if claim == nil {",
		}, "past the horizon", ""},
		{"a name is taken back by overwriting", planted.Edit{
			File: "membership/renewing.go",
			Old:  "\tcase resp.Kvs[0].CreateRevision != c.revision:\n\t\treturn Lost\n",
			New:  "\tcase resp.Kvs[0].CreateRevision != c.revision:\n\t\t_, err := s.client.Put(ctx, c.key, s.cfg.Owner, clientv3.WithLease(c.lease))\n\t\treturn err\n",
		}, "not its own", ""},
		{"a claim's error is taken for \"not claimed\"", planted.Edit{
			File: "membership/acquire.go",
			Old:  "\tcase errors.Is(err, Expired):\n\t\th.lease = nil\n",
			New:  "\tcase err != nil && !errors.Is(err, ErrNoFreeName):\n\t\th.lease = nil\n",
		}, "2 names in etcd", ""},
		{"a claim that is made again is not read back", planted.Edit{
			File: "membership/claiming.go",
			Old:  "If(clientv3.Compare(clientv3.LeaseValue(pool.NamesKey(s.cfg.Pool)), \"!=\", under.id).WithPrefix()).",
			New:  "If().",
		}, "2 names in etcd", ""},
		{"the own key is not read", planted.Edit{
			File: "membership/renewing.go",
			Old:  "\tcase expired:\n\t\treturn Expired\n",
			New:  "\tcase expired:\n\t\treturn Expired\n\tcase true:\n\t\treturn nil\n",
		}, "", ""},
		{"a free name is taken for an unused one", planted.Edit{
			File: "membership/acquire.go",
			Old:  "range h.unended(ctx, got) {",
			New:  "range h.unended(ctx, got)[:0] {",
		}, "two valid claims", ""},
		{"one leader is taken for another", planted.Edit{
			File: "membership/succession.go",
			Old:  "err == nil && t.Term != 0 && t.Term == got.term",
			New:  "err == nil",
		}, "two valid claims", ""},
		{"an end that the heir wrote is taken for the last holder's", planted.Edit{
			File: "membership/acquire.go",
			Old:  "if inUse {",
			New:  "if inUse = true; inUse {",
		}, "two valid claims", ""},
		{"the seconds of a free name are nobody's", planted.Edit{
			File: "membership/history.go",
			Old:  "s.from = min(s.from, end+1)",
			New:  "_ = end",
		}, "names a line", ""},
		{"the seconds of a wait are ours", planted.Edit{
			File: "membership/succession.go",
			Old:  "held.answered.Add(held.unused()), h.wall()",
			New:  "held.answered, h.wall()",
		}, "names a line", ""},
		{"a doubted tenure is over when the next one begins", planted.Edit{
			File: "membership/history.go",
			Old:  "others[i+1].From.Add(ttl+margin(ttl)).Unix()",
			New:  "others[i+1].From.Add(0*ttl).Unix()",
		}, "names a line", "TestNextHolderEndsInVain"},
		{"an hour after a crash is nobody's", planted.Edit{
			File: "membership/succession.go",
			Old:  "from.Add(margin(cmp.Or(t.TTL, held.under.ttl)))",
			New:  "from.Add(0*cmp.Or(t.TTL, held.under.ttl) + time.Hour)",
		}, "drops a line", ""},
		{"what was our own at another boot is taken for over", planted.Edit{
			File: "membership/succession.go",
			Old:  "!t.Open() || own != nil && !own.Elsewhere",
			New:  "!t.Open() || own != nil",
		}, "two valid claims", "TestCloneOfAHostThatIsCutOff"},
		{"a copied state directory proves a claim", planted.Edit{
			File: "membership/acquire.go",
			Old:  "case got.takenOver && h.own.Before.Here:",
			New:  "case got.takenOver:",
		}, "", ""},
		{"a loss of data makes nobody cautious", planted.Edit{
			File: "membership/acquire.go",
			Old:  "if got.marked || held.at < h.lostData.until {",
			New:  "if false {",
		}, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			planted.Patience(t, test.edit)
			out := planted.TestFails(t, "./membership", []string{"-test.run=^" + cmp.Or(test.sees, "TestSimulation") + "$", "-sim.schedules=3000", "-test.timeout=5m"}, test.edit)
			_, verdict, found := strings.Cut(out, "schedule ")
			if !found || !strings.Contains(verdict, test.want) {
				t.Errorf("the tests failed, but no schedule did for the reason %q; they printed:\n%s", test.want, out)
			}
			verdict, _, _ = strings.Cut(verdict, "\n")
			t.Log("schedule ", verdict)
		})
	}
}
