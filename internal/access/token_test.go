package access

import (
	"strings"
	"testing"
)

func TestHide(t *testing.T) {
	token, err := NewToken("ci-1", [SecretLen]byte{1, 0xab})
	if err != nil {
		t.Fatal(err)
	}
	text := token.Text()
	for _, c := range [][2]string{
		{text, "srt_…"},
		{"a " + text + "\n" + text + "/b", "a srt_…\nsrt_…/b"},
		{strings.ToUpper(text), "srt_…"},
		{text[:len(text)-10], "srt_…"},
		{"one looks like srt_ID_SECRET", "one looks like srt_ID_SECRET"},
		{"srt_ci-1 is an id, not a secret", "srt_ci-1 is an id, not a secret"},
		{"", ""},
	} {
		if got := Hide(c[0]); got != c[1] {
			t.Errorf("%q: %q, want %q", c[0], got, c[1])
		}
	}
}
