// A provider's own key, and what hosts have given it.

package native

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/ravnest/ravnest/signaling/proto"
)

// Identity is an Ed25519 key in a file that only its owner can read.
type Identity struct {
	path string
	key  ed25519.PrivateKey
	made bool
}

// IdentityPath returns where the user's identity is kept: identity.pem in ravnest's directory
// of the user's configuration.
func IdentityPath() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("looking for a place for this provider's key: %w", err)
	}
	return filepath.Join(dir, "ravnest", "identity.pem"), nil
}

// OpenIdentity reads the key at path, and makes one if there is none. A key that others can
// read is refused.
func OpenIdentity(path string) (*Identity, error) {
	for range 2 {
		data, err := os.ReadFile(path)
		if err == nil {
			return parseIdentity(path, data)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("this provider's key: %w", err)
		}
		id, err := makeIdentity(path)
		if !errors.Is(err, fs.ErrExist) { // another process has made it meanwhile
			return id, err
		}
	}
	return nil, fmt.Errorf("this provider's key: %s comes and goes", path)
}

func parseIdentity(path string, data []byte) (*Identity, error) {
	if info, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("this provider's key: %w", err)
	} else if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("this provider's key %s can be read by others (mode %04o): chmod 600 it, or remove it to get another one", path, info.Mode().Perm())
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("this provider's key %s is not a PEM file with a private key: remove it to get another one", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("this provider's key %s: %w: remove it to get another one", path, err)
	}
	key, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("this provider's key %s is no Ed25519 key: remove it to get another one", path)
	}
	return &Identity{path: path, key: key}, nil
}

func makeIdentity(path string) (*Identity, error) {
	fail := func(err error) (*Identity, error) { return nil, fmt.Errorf("making this provider's key: %w", err) }
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fail(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fail(err)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	// Whole or not at all, and never over another one.
	f, err := os.CreateTemp(dir, ".identity-*") // mode 0600
	if err != nil {
		return fail(err)
	}
	defer os.Remove(f.Name())
	err = errors.Join(pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der}), f.Sync(), f.Close())
	if err == nil {
		if err = os.Link(f.Name(), path); errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) {
			err = os.Rename(f.Name(), path) // a file system without links
		}
	}
	if err != nil {
		return fail(err)
	}
	return &Identity{path: path, key: key, made: true}, nil
}

// Made reports whether the key is new.
func (i *Identity) Made() bool { return i.made }

// Key implements client.Identity.
func (i *Identity) Key() string { return hex.EncodeToString(i.key.Public().(ed25519.PublicKey)) }

// Sign implements client.Identity.
func (i *Identity) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(i.key, message), nil
}

// passes is the file beside the key with what hosts have given it.
func (i *Identity) passes() string { return filepath.Join(filepath.Dir(i.path), "passes.json") }

// maxPasses bounds that file.
const maxPasses = 1 << 20

// Pass returns the token that the host at a URL has given this key; "": none.
func (i *Identity) Pass(url string) string {
	all, err := i.readPasses()
	if err != nil {
		return ""
	}
	return all[i.Key()+" "+url]
}

func (i *Identity) readPasses() (map[string]string, error) {
	all := map[string]string{}
	info, err := os.Stat(i.passes())
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err == nil && info.Size() > maxPasses {
		err = fmt.Errorf("%s is too large", i.passes())
	}
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(i.passes())
	if err == nil {
		err = json.Unmarshal(data, &all)
	}
	for _, token := range all {
		if proto.CheckToken(token) != nil {
			return nil, fmt.Errorf("%s has something that is no token", i.passes())
		}
	}
	return all, err
}

// KeepPass keeps a token that the host at a URL has given.
func (i *Identity) KeepPass(url, token string) error {
	all, err := i.readPasses()
	if err != nil {
		all = map[string]string{} // none of them is more than a step saved
	}
	all[i.Key()+" "+url] = token
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return WriteFile(i.passes(), data, 0o600)
}
