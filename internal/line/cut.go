package line

import "bytes"

// MaxLen is the longest line that leaves, in bytes without its '\n'. On a
// longer one carbon-cache closes the connection, which costs every line behind
// it: its receiver is twisted's LineOnlyReceiver, with its MAX_LENGTH.
//
// https://github.com/twisted/twisted/blob/twisted-22.4.0/src/twisted/protocols/basic.py
const MaxLen = 16384

// Cut returns the first line of data without its terminator ("\n" or "\r\n";
// of several '\r' only the last belongs to it), and what follows. Both alias
// data. Where data holds no '\n', ok is false, line nil and rest is data.
func Cut(data []byte) (line, rest []byte, ok bool) {
	i := bytes.IndexByte(data, '\n')
	if i < 0 {
		return nil, data, false
	}
	line, rest = data[:i], data[i+1:]
	if i > 0 && data[i-1] == '\r' {
		line = data[:i-1]
	}
	return line, rest, true
}
