package gate

import (
	"errors"
	"strconv"

	"github.com/scope-registry/scope-registry/client"
)

// refusal is an error in the words of the stores: a whole line without the dash.
type refusal string

func (r refusal) Error() string { return string(r) }

const (
	errName    = refusal("ERR Client names cannot contain spaces, newlines or special characters.")
	errAborted = refusal("EXECABORT Transaction discarded because of previous errors.")
)

// errorLine is the reply that says err.
func errorLine(err error) []byte { return appendError(nil, err) }

// appendError appends the reply that says err: the code of a [client.Error] and its text. Any other error is its text, which
// begins with a code.
func appendError(b []byte, err error) []byte {
	b = append(b, '-')
	var e *client.Error
	if !errors.As(err, &e) {
		return appendLine(b, err.Error())
	}
	b = append(b, e.Code.RESP()...)
	if e.Detail != "" {
		b = append(b, ' ')
	}
	return appendLine(b, e.Detail)
}

// appendLine appends text and the end of a line. What would end the line before becomes a space.
func appendLine(b []byte, text string) []byte {
	from := len(b)
	b = append(b, text...)
	for i := from; i < len(b); i++ {
		if b[i] == '\r' || b[i] == '\n' {
			b[i] = ' '
		}
	}
	return append(b, '\r', '\n')
}

func appendHead(b []byte, kind byte, n int) []byte {
	b = strconv.AppendInt(append(b, kind), int64(n), 10)
	return append(b, '\r', '\n')
}

func appendBulk(b []byte, text string) []byte {
	b = appendHead(b, '$', len(text))
	b = append(b, text...)
	return append(b, '\r', '\n')
}

var okReply = []byte("+OK\r\n")
