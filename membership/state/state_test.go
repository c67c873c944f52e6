package state

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
	"github.com/prefixproxy/prefixproxy/internal/statedir"
)

func TestStateRemembers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "on", "demand")
	s := open(t, dir)
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: got %v, %v; want mode 0700", info, err)
	}
	if m, _, err := s.load("default"); m != nil || err != nil {
		t.Errorf("a new directory remembers %v (%v), want nothing", m, err)
	}
	want := Claim{Pool: "default", Name: "Denali", Lease: 1 << 62, Revision: 1 << 60, TTL: 15 * time.Second}
	if err := s.save(saved{Claim: want}); err != nil {
		t.Fatal(err)
	}
	s.Close()

	s = open(t, dir)
	got, _, err := s.load("default")
	if err != nil {
		t.Fatal(err)
	}
	want.Place, want.Here = s.place, s.place.Boot != ""
	if *got != want {
		t.Errorf("remembered: got %+v, want %+v", *got, want)
	}
}

// What could not be saved is tried again, and each is said once.
func TestSavedLater(t *testing.T) {
	s := open(t, t.TempDir())
	inTheWay := filepath.Join(s.Path(), "claim.json.new")
	if err := os.MkdirAll(filepath.Join(inTheWay, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		own := NewOwn(s, slog.New(slog.NewTextHandler(&log, nil)))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); own.Run(ctx) }()
		<-own.Remember(Claim{Pool: "default", Name: "Denali"})
		sidebyside.Pass(3*saveAgain + saveAgain/2)
		if m, _, _ := s.load("default"); m != nil {
			t.Errorf("saved: %+v", m)
		}
		os.RemoveAll(inTheWay)
		sidebyside.Pass(saveAgain)
		if m, _, err := s.load("default"); err != nil || m == nil || m.Name != "Denali" {
			t.Errorf("got %+v, %v; want Denali", m, err)
		}
		sidebyside.Pass(3 * saveAgain)
		cancel()
		<-ended
	})
	if text := log.String(); strings.Count(text, "not saved") != 1 || strings.Count(text, "claim saved") != 1 {
		t.Errorf("got %s", text)
	}
}

// A copy of the directory, and another boot, are another place.
func TestStateKnowsItsPlace(t *testing.T) {
	dir, copied := t.TempDir(), t.TempDir()
	s := open(t, dir)
	if s.place.Boot == "" {
		t.Skip("this system has no boot id")
	}
	if err := s.save(saved{Claim: Claim{Name: "Denali"}}); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if m, _, err := open(t, copied).load("default"); err != nil || m.Name != "Denali" || m.Here {
		t.Errorf("a copy: got %+v, %v; want Denali from elsewhere", m, err)
	}
	s.place.Boot = "the next boot"
	if m, _, err := s.load("default"); err != nil || m.Name != "Denali" || m.Here {
		t.Errorf("after a reboot: got %+v, %v; want Denali from elsewhere", m, err)
	}
	s.place.Boot = "" // where boots have no names, any two may be different
	if err := s.save(saved{Claim: Claim{Name: "Denali"}}); err != nil {
		t.Fatal(err)
	}
	if m, _, err := s.load("default"); err != nil || m.Name != "Denali" || m.Here {
		t.Errorf("at an unknown boot: got %+v, %v; want Denali from elsewhere", m, err)
	}
}

// Which tenures are ours, by what was saved, depends on where that was: what had no end at another
// boot may have gone on in a clone; a copied directory and another pool have none of ours.
func TestTenuresOfThePlace(t *testing.T) {
	ended := Tenure{Name: "MtLogan", Record: "1795386400000-1", Start: 1795386400, End: 1795386410}
	open := Tenure{Name: "Denali", Record: "1795386411000-2", Start: 1795386411}
	cloned := Tenure{Name: "MtHunter", Record: "1795386412000-3", Start: 1795386412, Elsewhere: true}
	unsaved := Tenure{Name: "Denali", Record: "1795386417123-4", Start: 1795386417} // of the claim alone
	elsewhere := func(t Tenure) Tenure { t.Elsewhere = true; return t }
	home := Place{Boot: "this", Device: 1, Inode: 2}
	for _, test := range []struct {
		name   string
		pool   string
		at     Place
		record string // of the claim
		want   Tenures
	}{
		{"where it was saved", "default", home, unsaved.Record, Tenures{ended, open, cloned, unsaved}},
		{"a claim whose tenure was saved", "default", home, open.Record, Tenures{ended, open, cloned}},
		{"a claim without a record", "default", home, "", Tenures{ended, open, cloned}},
		{"the record of another name", "default", home, ended.Record, Tenures{ended, open, cloned, {Name: "Denali", Record: ended.Record, Start: unsaved.Start}}},
		{"another boot", "default", Place{"another", 1, 2}, unsaved.Record, Tenures{ended, elsewhere(open), cloned, elsewhere(unsaved)}},
		{"a copy", "default", Place{"this", 1, 3}, unsaved.Record, nil},
		{"another pool", "other", home, unsaved.Record, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, err := statedir.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			claim := Claim{Pool: "default", Name: "Denali", Record: test.record, Start: unsaved.Start}
			if err := New(dir, home).save(saved{claim, Tenures{ended, open, cloned}}); err != nil {
				t.Fatal(err)
			}
			own := NewOwn(New(dir, test.at), slog.New(slog.DiscardHandler))
			own.Recall(test.pool, []string{"Denali", "MtLogan", "MtHunter"})
			if !slices.Equal(own.Tenures, test.want) {
				t.Errorf("got  %+v\nwant %+v", own.Tenures, test.want)
			}
		})
	}
}

func TestStateIsLocked(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	_, err := Open(dir)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Errorf("the second on %s: got %v, want ErrLocked with the directory", dir, err)
	}
	s.Close()
	open(t, dir)
}

func TestStateNotWritable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(file, "state")); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("below a file: got %v, want an error that names it", err)
	}
}

// What cannot be used of a state is left, and the holder starts as if new.
func TestStateOfNoUse(t *testing.T) {
	for _, test := range []struct {
		name, content string
		wantWarning   bool
	}{
		{"torn", `{"pool":"default","na`, true},
		{"empty", ``, true},
		{"another pool", `{"pool":"other","name":"Denali","lease":1,"revision":1}`, false},
		{"a name that is not of the list", `{"pool":"default","name":"../../etc"}`, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := open(t, t.TempDir())
			if err := os.WriteFile(filepath.Join(s.Path(), memoryFile), []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			own := NewOwn(s, slog.New(slog.NewTextHandler(&log, nil)))
			own.Recall("default", []string{"Denali"})
			if own.Before != nil {
				t.Errorf("recalled %+v, want nothing", own.Before)
			}
			if warned := strings.Contains(log.String(), "level=WARN"); warned != test.wantWarning {
				t.Errorf("warned %v, want %v; log: %s", warned, test.wantWarning, log.String())
			}
		})
	}
}

// What was planted while the directory was open to others is neither believed nor
// waited for, and the directory itself is refused.
func TestStateOfOthers(t *testing.T) {
	dir := t.TempDir()
	elsewhere := filepath.Join(t.TempDir(), "theirs")
	if err := os.WriteFile(elsewhere, []byte(`{"pool":"default","name":"MtLogan"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, filepath.Join(dir, memoryFile)); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	if m, _, err := s.load("default"); err == nil {
		t.Errorf("a link was followed: %+v", m)
	}
	if err := s.save(saved{Claim: Claim{Name: "Denali"}}); err != nil {
		t.Fatal(err)
	}
	if m, _, err := s.load("default"); err != nil || m.Name != "Denali" {
		t.Errorf("got %+v, %v; want Denali", m, err)
	}
	if text, _ := os.ReadFile(elsewhere); !strings.Contains(string(text), "MtLogan") {
		t.Errorf("what the link led to is %q now", text)
	}
	s.Close()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); !errors.Is(err, statedir.ErrOpenToOthers) {
		t.Errorf("got %v, want %v", err, statedir.ErrOpenToOthers)
	}
}

// Whatever stands in the state directory ends no process, and is taken for a name of
// ours only if it is of the list.
func FuzzStateDir(f *testing.F) {
	for _, content := range []string{
		`{"pool":"default","name":"Denali","lease":7,"revision":9,"ttl_ns":15000000000,"record":"1795386417123-694d8a1c5e0f3a2b","start":1795386417,"place":{"boot":"b","device":1,"inode":2}}`,
		`{"pool":"default","name":"MtLogan","tenures":[{"name":"MtLogan","record":"1-1","start":5,"end":3},{"name":"Denali.x 1","record":"","start":-9223372036854775808,"end":9223372036854775807}]}`,
		`{"name":{}}`, `null`, ``,
	} {
		f.Add([]byte(content))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		s := open(t, t.TempDir())
		defer s.Close()
		if err := os.WriteFile(filepath.Join(s.Path(), memoryFile), content, 0o600); err != nil {
			t.Fatal(err)
		}
		own, names := NewOwn(s, slog.New(slog.DiscardHandler)), []string{"Denali", "MtLogan"}
		own.Recall("default", names)
		if own.Before != nil && !slices.Contains(names, own.Before.Name) {
			t.Errorf("%q is taken for our name", own.Before.Name)
		}
		if own.Before != nil {
			own.Before.Tenure()
		}
		if err := s.save(saved{own.Last, own.Tenures}); err != nil {
			t.Errorf("what was read cannot be saved: %v", err)
		}
	})
}

func open(t *testing.T, dir string) *Dir {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
