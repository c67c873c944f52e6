package pulse

import (
	"testing"
	"time"
)

func TestStuck(t *testing.T) {
	var waits, works, turns, stands Pulse
	all := []Loop{&waits, &works, &turns, &stands}
	works.Work()
	works.Rest()
	w := Watch{Limit: time.Minute}
	now := time.Unix(1000, 0)
	look := func(after time.Duration) Loop {
		now = now.Add(after)
		turns.Work()
		return w.Stuck(now, all)
	}
	if got := look(0); got != nil {
		t.Error("a loop that has just begun counts as stuck")
	}
	stands.Work()
	for range 6 {
		if got := look(10 * time.Second); got != nil {
			t.Fatalf("stuck before the limit: %p of %p", got, all)
		}
	}
	look(10 * time.Second)
	if got := look(10 * time.Second); got != &stands {
		t.Errorf("the loop that stands still is not found: %p, want %p", got, &stands)
	}
	// Who has stood still himself has no opinion.
	if got := look(time.Hour); got != nil {
		t.Error("after an hour without a look a loop counts as stuck")
	}
	look(time.Second)
	stands.Work()
	for range 7 {
		if got := look(10 * time.Second); got != nil {
			t.Error("a loop that went on counts as stuck")
		}
		stands.Rest()
	}
}
