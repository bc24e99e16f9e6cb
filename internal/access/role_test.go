package access

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
)

func TestURI(t *testing.T) {
	for _, w := range []Who{{Role: Server, ID: "s1"}, {Role: Node, ID: "embed-1.x_y"}, {Role: Operator}, {Role: Operator, ID: "alice"}, {Role: Viewer}, {Role: Admin, ID: "a"}} {
		u := w.URI("prod-1")
		again, err := url.Parse(u.String())
		if err != nil {
			t.Fatal(err)
		}
		cluster, got, err := FromURI(again)
		if err != nil || cluster != "prod-1" || got != w {
			t.Errorf("%s: %q %v %v", u, cluster, got, err)
		}
	}
}

func TestURIsThatNameNobody(t *testing.T) {
	for _, text := range []string{
		"https://c/admin", "scope-registry:c/admin", "scope-registry://c", "scope-registry://c/", "scope-registry://c/root", "scope-registry://c/anonymous",
		"scope-registry://c/nobody", "scope-registry:///admin", "scope-registry://C/admin", "scope-registry://c:1/admin", "scope-registry://u@c/admin",
		"scope-registry://c/admin?x", "scope-registry://c/admin?", "scope-registry://c/admin#x", "scope-registry://c/node", "scope-registry://c/node/",
		"scope-registry://c/server", "scope-registry://c/node/a/b", "scope-registry://c/admin/", "scope-registry://c/node/a%2fb", "scope-registry://c/node/a%0ab",
		"scope-registry://c/Admin", "scope-registry://c//admin", "scope-registry://" + strings.Repeat("c", 64) + "/admin", "scope-registry://c/node/" + strings.Repeat("n", 65),
	} {
		u, err := url.Parse(text)
		if err != nil {
			continue // such a URI is in no certificate that crypto/x509 reads
		}
		if cluster, who, err := FromURI(u); err == nil {
			t.Errorf("%s is %v of %q", text, who, cluster)
		} else if strings.ContainsAny(err.Error(), "\n\r") {
			t.Errorf("%q breaks the line", err)
		}
	}
}

func TestTokenText(t *testing.T) {
	made, err := NewToken("ci-1", [SecretLen]byte{1, 2, 255})
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseToken(made.Text())
	if err != nil || got != made {
		t.Errorf("%v, %v", got, err)
	}
	secret := made.Text()[len("srt_ci-1_"):]
	for _, shown := range []string{fmt.Sprintf("%v %+v %#v %s", made, made, made, made), fmt.Sprintf("%v %v", &made, []Token{made}), fmt.Sprintf("%+v", struct{ T Token }{made})} {
		if strings.Contains(shown, secret) || strings.Contains(shown, "255") || strings.Contains(shown, "0xff") {
			t.Errorf("%q shows the secret", shown)
		}
	}
	for _, bad := range []string{"", "srt_", "srt_ci-1", "srt_ci-1_", "srt__" + secret, "srt_CI_" + secret, "xrt_ci-1_" + secret, made.Text() + "0", made.Text()[:len(made.Text())-1],
		strings.Replace(made.Text(), "ff", "fg", 1), "srt_" + strings.Repeat("a", 33) + "_" + secret, " " + made.Text(), made.Text() + "\n"} {
		if got, err := ParseToken(bad); err == nil {
			t.Errorf("%q is %v", bad, got)
		} else if len(bad) > 20 && strings.Contains(err.Error(), secret) {
			t.Errorf("%q repeats the secret", err)
		}
	}
}

// FuzzParseToken: what is read is written the same, and nothing panics. A token comes from a socket before anybody is known.
func FuzzParseToken(f *testing.F) {
	f.Add("srt_a_" + strings.Repeat("0f", SecretLen))
	f.Add("srt__")
	f.Fuzz(func(t *testing.T, text string) {
		made, err := ParseToken(text)
		if err == nil && !strings.EqualFold(made.Text(), text) {
			t.Errorf("%q is written as %q", text, made.Text())
		}
	})
}

// FuzzFromURI: a certificate's URI is somebody's word.
func FuzzFromURI(f *testing.F) {
	f.Add("scope-registry://c/node/a")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := url.Parse(text)
		if err != nil {
			return
		}
		cluster, who, err := FromURI(u)
		if err != nil {
			return
		}
		if again, same, err := FromURI(who.URI(cluster)); err != nil || again != cluster || same != who {
			t.Errorf("%q is %v of %q, and that is %v of %q, %v", text, who, cluster, same, again, err)
		}
	})
}
