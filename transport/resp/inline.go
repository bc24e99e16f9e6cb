package resp

import "bytes"

// parseInline goes on with an inline line, which begins at start.
func (r *Reader) parseInline() (whole bool, err error) {
	b := r.buf[r.start:r.end]
	// A newline one byte behind the limit ends a line that is within it.
	searched := min(len(b), r.lim.Inline+1)
	i := bytes.IndexByte(b[min(r.pos, searched):searched], '\n')
	if i < 0 {
		if len(b) > r.lim.Inline {
			return false, &LimitError{What: OverInline, Got: int64(r.lim.Inline) + 1, Max: int64(r.lim.Inline)}
		}
		r.pos = len(b)
		return false, nil
	}
	newline := r.pos + i
	line := bytes.TrimSuffix(b[:newline], []byte("\r"))
	if isHTTP(line) {
		return false, &ProtocolError{"this port speaks the Redis protocol (RESP), and this is HTTP: send it to the HTTP port"}
	}
	if err := r.split(line); err != nil {
		return false, err
	}
	r.pos = newline + 1
	return true, nil
}

// isHTTP tells whether a line begins an HTTP request. A browser can be made to send one, with commands in its body, to
// any port: the connection must end before they are read. POST and Host are no commands; names that are, or may be,
// count only with the version at the end of the line.
func isHTTP(line []byte) bool {
	line = bytes.TrimSpace(line)
	word := line
	if i := bytes.IndexAny(line, " \t"); i >= 0 {
		word = line[:i]
	}
	if bytes.EqualFold(word, []byte("POST")) || bytes.EqualFold(word, []byte("Host:")) {
		return true
	}
	switch string(word) {
	case "GET", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "CONNECT", "TRACE", "PRI":
		version := line[bytes.LastIndexByte(line, ' ')+1:]
		return len(version) == len("HTTP/x.y") && bytes.HasPrefix(version, []byte("HTTP/")) &&
			isDigit(version[5]) && version[6] == '.' && isDigit(version[7])
	}
	return false
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isSpace is C's isspace, which Redis uses.
func isSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

// split finds the arguments of a line and unquotes them in place. The line begins at start.
func (r *Reader) split(line []byte) error {
	in, out := 0, 0
	for {
		for in < len(line) && isSpace(line[in]) {
			in++
		}
		if in == len(line) {
			return nil
		}
		if len(r.spans) == r.lim.Args {
			return &LimitError{What: OverArgs, Got: int64(r.lim.Args) + 1, Max: int64(r.lim.Args)}
		}
		from, ok := out, false
		if in, out, ok = unquote(line, in, out); !ok {
			return &ProtocolError{"unbalanced quotes in request: close each quote, and put a space behind it"}
		}
		if n := out - from; n > r.lim.ArgLen {
			return &LimitError{What: OverArgLen, Got: int64(n), Max: int64(r.lim.ArgLen)}
		}
		if out > r.lim.Command {
			return &LimitError{What: OverCommand, Got: int64(out), Max: int64(r.lim.Command)}
		}
		r.spans = append(r.spans, span{from, out})
	}
}

// unquote copies the argument that begins at line[in] to line[out], as it is meant. It returns where both end, and
// whether its quotes are balanced. An argument is never longer than what stands for it, so out does not overtake in.
func unquote(line []byte, in, out int) (int, int, bool) {
	var quote byte
	for in < len(line) {
		c := line[in]
		in++
		switch {
		case quote == 0 && (c == ' ' || c == '\t' || c == '\r'):
			return in, out, true
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
			continue
		case quote == 0:
		case c == quote: // Redis wants a space, or nothing, behind it
			return in, out, in == len(line) || isSpace(line[in])
		case c == '\\' && in < len(line) && quote == '"':
			c, in = unescape(line, in)
		case c == '\\' && in < len(line) && line[in] == '\'':
			c, in = '\'', in+1
		}
		line[out] = c
		out++
	}
	return in, out, quote == 0
}

// unescape returns the byte that is meant by a backslash and what follows it at line[in], and where that ends.
func unescape(line []byte, in int) (byte, int) {
	switch c := line[in]; c {
	case 'n':
		return '\n', in + 1
	case 'r':
		return '\r', in + 1
	case 't':
		return '\t', in + 1
	case 'b':
		return '\b', in + 1
	case 'a':
		return '\a', in + 1
	case 'x':
		if in+2 < len(line) {
			high, low := hexDigit(line[in+1]), hexDigit(line[in+2])
			if high >= 0 && low >= 0 {
				return byte(high<<4 | low), in + 3
			}
		}
		return c, in + 1
	default:
		return c, in + 1
	}
}

// hexDigit returns the value of a hexadecimal digit, or -1.
func hexDigit(c byte) int {
	switch {
	case isDigit(c):
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
