package line

// A Result says what Append made of a line.
type Result uint8

// What was appended, and under which condition it may leave.
const (
	Rewritten Result = iota // under our name; bound to the claim
	Named                   // unchanged: it stood under our name already; bound to the claim
	Free                    // unchanged, and needs no name
	Held                    // no name is held, and it needs one: to be appended again by a Rewriter that has one

	Empty   // nothing was there: skipped, and not counted as a line
	Earlier // Carbon: before the floor (Rewriter.Since); sound, and for another Rewriter if for any

	// Refused: the server would refuse the line, or it would cost others.
	TooLong      // longer than MaxLen as it leaves
	Control      // a byte below 0x20 other than tab, or 0x7f
	EmptyPath    // nothing before the ':', the blank or the tags
	BadPath      // one that no file can have, that ends statsd, with tags that Graphite cannot read, or of which cannot be told whose it is
	NoValue      // StatsD: no value and type behind the name
	BadRate      // StatsD: a sample rate that is no plain positive decimal
	BadUTF8      // Carbon: invalid UTF-8
	BadFields    // Carbon: not exactly three fields
	BadValue     // Carbon: a value that is no decimal number; StatsD that becomes points: one that is not finite, or a field that statsd refuses
	BadTimestamp // Carbon: a timestamp that is no number of seconds from 0 to 2^32-1
	ForeignName  // it stands under the name of another host
	NoPoint      // StatsD that becomes points: it makes none, as an event, a service check, a type that is none

	// Dropped by the rules.
	UnmatchedPath // `from` does not match, and unmatched is drop

	// NumResults is their number: `for r := range NumResults` visits each, and
	// an array of this length counts them.
	NumResults
)

// words are the reasons why a line was discarded, as counters and people see them.
var words = map[Result]string{
	TooLong:       "too_long",
	Control:       "control",
	EmptyPath:     "empty_path",
	BadPath:       "bad_path",
	NoValue:       "no_value",
	BadRate:       "bad_rate",
	BadUTF8:       "bad_utf8",
	BadFields:     "bad_fields",
	BadValue:      "bad_value",
	BadTimestamp:  "bad_timestamp",
	ForeignName:   "foreign_name",
	NoPoint:       "no_point",
	UnmatchedPath: "unmatched",
}

// Appended says whether a line was appended.
func (r Result) Appended() bool { return r <= Held }

// Reason returns why the line was discarded, as the label of a counter; "" if
// it was appended, is empty, or is Earlier.
func (r Result) Reason() string { return words[r] }
