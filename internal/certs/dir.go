package certs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/internal/access"
)

const (
	// authorityName is that of the authority's files.
	authorityName = "ca"
	certSuffix    = ".pem"
	keySuffix     = ".key"
	// Keys are for their owner alone, and so is the directory with that of the authority.
	dirMode, fileMode = 0o700, 0o600
)

// Dir is a directory with an authority, ca.pem and ca.key, and with what it issued: NAME.pem and NAME.key, where NAME is a
// role, or a role and an id with a hyphen between.
type Dir string

// Issued is a certificate in a [Dir].
type Issued struct {
	Cert, Key string // paths
	Wish
	Cluster string
	Until   time.Time
	Due     bool // it is time to renew it, or its key does not belong to it
}

// CA is the path of the authority's certificate, which everybody needs who shall trust it.
func (d Dir) CA() string { return d.path(authorityName + certSuffix) }

func (d Dir) path(name string) string { return filepath.Join(string(d), name) }

// Files are where somebody's certificate and key are, or would be.
func (d Dir) Files(w access.Who) Files {
	base := d.path(name(w))
	return Files{Cert: base + certSuffix, Key: base + keySuffix, CA: d.CA()}
}

// name is that of somebody's files, without a suffix.
func name(w access.Who) string {
	if w.ID == "" {
		return w.Role.String()
	}
	return w.Role.String() + "-" + w.ID
}

// Init makes an authority in the directory, which is made with mode 0700. An authority that is there is never replaced.
func (d Dir) Init(cluster string, now time.Time) (*Authority, error) {
	a, err := NewAuthority(cluster, now)
	if err != nil {
		return nil, err
	}
	cert, key, err := a.PEM()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(string(d), dirMode); err != nil {
		return nil, fmt.Errorf("the directory %s cannot be made: %w", d, err)
	}
	if err := placePair(d.path(authorityName), cert, key, false); err != nil {
		return nil, fmt.Errorf("%w; an authority is never replaced: use another directory, or issue with the one that is there", err)
	}
	return a, nil
}

// Open reads the authority. cluster may be "" if the authority says for which one it signs.
func (d Dir) Open(cluster string) (*Authority, error) {
	cert, err := os.ReadFile(d.CA())
	if err != nil {
		return nil, fmt.Errorf("there is no authority in %s: %w; make one with: scope-registry certs init --dir %s", d, err, d)
	}
	key, err := os.ReadFile(d.path(authorityName + keySuffix))
	if err != nil {
		return nil, fmt.Errorf("the key of the authority cannot be read: %w; certificates are made where it is kept", err)
	}
	a, err := ReadAuthority(cert, key, cluster)
	if err != nil {
		return nil, fmt.Errorf("authority in %s: %w", d, err)
	}
	return a, nil
}

// Issue writes a certificate and its key. Those that are there are replaced only with force.
func (d Dir) Issue(a *Authority, w Wish, now time.Time, force bool) (Issued, error) {
	cert, key, err := a.Issue(w, now)
	if err != nil {
		return Issued{}, err
	}
	base := d.path(name(w.Who))
	if err := placePair(base, cert, key, force); err != nil {
		return Issued{}, fmt.Errorf("%w; replace it with --force, or renew what is due with: scope-registry certs renew --dir %s", err, d)
	}
	return d.look(base+certSuffix, now)
}

// List is what the directory holds, in the order of the names of the files.
func (d Dir) List(now time.Time) (all []Issued, err error) {
	names, err := filepath.Glob(d.path("*" + certSuffix))
	if err == nil && len(names) == 0 {
		_, err = os.Stat(string(d))
	}
	if err != nil {
		return nil, fmt.Errorf("certificates in %s: %w", d, err)
	}
	for _, name := range names {
		if name == d.CA() {
			continue
		}
		one, err := d.look(name, now)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

func (d Dir) look(name string, now time.Time) (Issued, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return Issued{}, fmt.Errorf("certificate: %w", err)
	}
	found := parse(text)
	if len(found) == 0 {
		return Issued{}, fmt.Errorf("%s holds no certificate in PEM", name)
	}
	one := Issued{Cert: name, Key: strings.TrimSuffix(name, certSuffix) + keySuffix, Until: found[0].NotAfter}
	if one.Cluster, one.Wish, err = wishOf(found[0]); err != nil {
		return Issued{}, fmt.Errorf("certificate %s: %w", name, err)
	}
	key, err := os.ReadFile(one.Key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Issued{}, fmt.Errorf("key: %w", err)
	}
	one.Due = due(found[0], now) || !pairs(text, key)
	return one, nil
}

// Renew issues anew, to the same holders and with new keys, what is due, or all of it. It returns what it issued.
func (d Dir) Renew(a *Authority, now time.Time, all bool) (renewed []Issued, err error) {
	held, err := d.List(now)
	if err != nil {
		return nil, err
	}
	for _, one := range held {
		if !one.Due && !all {
			continue
		}
		if one.Cluster != a.Cluster() {
			return renewed, fmt.Errorf("certificate %s is of cluster %q, and the authority signs for %q", one.Cert, one.Cluster, a.Cluster())
		}
		if want := d.Files(one.Who).Cert; want != one.Cert {
			return renewed, fmt.Errorf("certificate %s is that of %s, whose file is called %s; give it back its name", one.Cert, one.Who, want)
		}
		made, err := d.Issue(a, one.Wish, now, true)
		if err != nil {
			return renewed, fmt.Errorf("renewing %s: %w", one.Cert, err)
		}
		renewed = append(renewed, made)
	}
	return renewed, nil
}

// placePair writes a key and its certificate, the key first. Between the two they do not belong together: a program that runs
// keeps what it has until they do, and after a crash Renew finds them out.
func placePair(base string, cert, key []byte, force bool) error {
	for _, name := range []string{base + keySuffix, base + certSuffix} {
		if _, err := os.Lstat(name); err == nil && !force {
			return fmt.Errorf("%s exists", name)
		}
	}
	return errors.Join(place(base+keySuffix, key, force), place(base+certSuffix, cert, force))
}

// place writes a file that is there whole or not at all, with mode 0600. Without force one that is there is an error.
func place(name string, text []byte, force bool) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*") // made with mode 0600
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	defer func() {
		if e := os.Remove(f.Name()); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}()
	_, err = f.Write(text)
	if err = errors.Join(err, f.Chmod(fileMode), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	put := os.Link // which refuses a name that is taken
	if force {
		put = os.Rename
	}
	if err := put(f.Name(), name); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists", name)
	} else if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}
