package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// "Denali at 14:05, who was that?"
func TestWhoAndHistory(t *testing.T) {
	client, file := bluePool(t)
	for key, value := range map[string]string{
		"names/Denali":                    "web17",
		"names/KingPeak":                  "web99", // by a program that keeps no records
		"tenures/Denali/1795386417123-1":  `{"owner":"web3","lease":"1","from":"2026-11-22T22:26:57.123Z","to":"2026-11-22T23:00:00.000Z","ended":"release"}`,
		"tenures/Denali/1795390000000-2":  `{"owner":"web17","lease":"2","from":"2026-11-22T23:26:40.000Z"}`,
		"tenures/Denali/1795393600000-0":  `{"owner":"web17","lease":"0","from":"2026-11-23T00:26:40.000Z"}`,
		"tenures/MtLogan/1795386417123-3": `{"owner":"web17","lease":"3","from":"2026-11-22T22:26:57.123Z"}`,
	} {
		if _, err := client.Put(t.Context(), "/prefixproxy/blue/"+key, value); err != nil {
			t.Fatal(err)
		}
	}

	for _, test := range []struct {
		args     string
		out, err string
	}{
		{"who Denali", `NAME    OWNER  FROM                  TO                    ENDED
Denali  web17  2026-11-23T00:26:40Z  -                     -
Denali  web17  2026-11-22T23:26:40Z  2026-11-23T00:26:40Z  expired
Denali  web3   2026-11-22T22:26:57Z  2026-11-22T23:00:00Z  release
`, ""},
		{"who --json Denali --at 2026-11-22T22:30:00Z", `[
  {
    "name": "Denali",
    "owner": "web3",
    "from": "2026-11-22T22:26:57.123Z",
    "to": "2026-11-22T23:00:00Z",
    "ended": "release"
  }
]
`, ""},
		{"who Denali --at 2026-11-23T00:26:40Z --json", `[
  {
    "name": "Denali",
    "owner": "web17",
    "from": "2026-11-23T00:26:40Z",
    "to": null,
    "ended": null
  }
]
`, ""},
		{"who Denali --at 2026-11-22T23:10:00Z --json", "[]\n", "prefixproxy: note: nobody is on record as holding Denali at 2026-11-22T23:10:00Z\n"},
		{"who Denali --at 2026-11-22T23:10:00Z", "", "prefixproxy: note: nobody is on record as holding Denali at 2026-11-22T23:10:00Z\n"},
		{"who MtLogan", `NAME     OWNER  FROM                  TO  ENDED
MtLogan  web17  2026-11-22T22:26:57Z  ?   -
`, "prefixproxy: note: nobody holds MtLogan now\n"},
		{"who KingPeak", `NAME      OWNER  FROM  TO  ENDED
KingPeak  web99  -     -   -
`, ""},
		{"who KingPeak --at -2h --json", `[
  {
    "name": "KingPeak",
    "owner": "web99",
    "from": null,
    "to": null,
    "ended": null
  }
]
`, ""},
		{"who MtBona --json", "[]\n", "prefixproxy: note: nobody holds MtBona now\n"},
		{"history web17", `NAME     OWNER  FROM                  TO                    ENDED
Denali   web17  2026-11-23T00:26:40Z  -                     -
Denali   web17  2026-11-22T23:26:40Z  2026-11-23T00:26:40Z  expired
MtLogan  web17  2026-11-22T22:26:57Z  ?                     -
`, ""},
		{"history web3 --json", `[
  {
    "name": "Denali",
    "owner": "web3",
    "from": "2026-11-22T22:26:57.123Z",
    "to": "2026-11-22T23:00:00Z",
    "ended": "release"
  }
]
`, ""},
		{"history web4 --json", "[]\n", "prefixproxy: note: no name of pool blue is on record for \"web4\"; for the holders of a name: prefixproxy who NAME\n"},
	} {
		t.Run(test.args, func(t *testing.T) {
			var out, err bytes.Buffer
			if code := run(append(strings.Fields(test.args), "--config", file), nil, &out, &err); code != exitDone {
				t.Errorf("exit code: got %d, want %d", code, exitDone)
			}
			if out.String() != test.out || err.String() != test.err {
				t.Errorf("got\n%s%s\nwant\n%s%s", &out, &err, test.out, test.err)
			}
		})
	}
}

func TestParseTime(t *testing.T) {
	zone := time.FixedZone("CET", 3600)
	now := time.Date(2026, 1, 31, 14, 5, 30, 0, zone)
	for s, want := range map[string]string{
		"now":                  "2026-01-31T14:05:30+01:00",
		" -7d ":                "2026-01-24T14:05:30+01:00",
		"-1w":                  "2026-01-24T14:05:30+01:00",
		"-90s":                 "2026-01-31T14:04:00+01:00",
		"-1h30min":             "2026-01-31T12:35:30+01:00",
		"now-2min":             "2026-01-31T14:03:30+01:00",
		"20260102":             "2026-01-02T00:00:00+01:00",
		"14:05":                "2026-01-31T14:05:00+01:00",
		"14:05:30":             "2026-01-31T14:05:30+01:00",
		"14:06":                "2026-01-30T14:06:00+01:00", // is still to come today
		"-2h":                  "2026-01-31T12:05:30+01:00",
		"-2d":                  "2026-01-29T14:05:30+01:00",
		"-1d2h":                "2026-01-30T12:05:30+01:00",
		"-1h30m":               "2026-01-31T12:35:30+01:00",
		"2026-01-02T03:04:05Z": "2026-01-02T04:04:05+01:00",
		"2026-01-02T03:04":     "2026-01-02T03:04:00+01:00",
		"2026-01-02 03:04:05":  "2026-01-02T03:04:05+01:00",
		"-2mon":                "2025-12-02T14:05:30+01:00",
		"-1y1d":                "2025-01-30T14:05:30+01:00",
		"-3days":               "2026-01-28T14:05:30+01:00",
		"-24hours":             "2026-01-30T14:05:30+01:00",
		"now-2minutes30sec":    "2026-01-31T14:03:00+01:00",
		"04:00_20260102":       "2026-01-02T04:00:00+01:00",
		"2026-01-02":           "2026-01-02T00:00:00+01:00",
		"1767319445":           "2026-01-02T03:04:05+01:00",
	} {
		if got, err := parseTime(s, now); err != nil || got.In(zone).Format(time.RFC3339) != want {
			t.Errorf("%q: got %v, %v; want %s", s, got, err, want)
		}
	}
	for _, s := range []string{"", " ", "2h", "-2", "--json", "25:00", "someday", "m", "-1", "2026-13-01", "-", "-7x", "-999999w", "-99999y", "-99y", "now now", "0", "99999999999", "17673194450000", "-7d)", "-1d-1d"} {
		if got, err := parseTime(s, now); exitCode(err) != exitUsage {
			t.Errorf("%q: got %v, %v; want an error of usage", s, got, err)
		}
	}
}
