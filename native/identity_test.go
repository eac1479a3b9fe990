package native

import (
	"crypto/ed25519"
	"encoding/hex"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/ravnest/ravnest/signaling/client"
)

var _ client.Identity = (*Identity)(nil)

func TestIdentity(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config", "ravnest", "identity.pem")
	// Several at once agree on one.
	var wg sync.WaitGroup
	keys := make([]string, 8)
	for i := range keys {
		wg.Go(func() {
			id, err := OpenIdentity(path)
			if err != nil {
				t.Error(err)
				return
			}
			keys[i] = id.Key()
		})
	}
	wg.Wait()
	for _, k := range keys {
		if k != keys[0] {
			t.Fatalf("several keys: %v", keys)
		}
	}
	id, err := OpenIdentity(path)
	if err != nil || id.Made() {
		t.Fatal(err, id.Made())
	}
	sig, err := id.Sign(t.Context(), []byte("hello"))
	pub, _ := hex.DecodeString(id.Key())
	if err != nil || !ed25519.Verify(pub, []byte("hello"), sig) {
		t.Error("the signature is not the key's", err)
	}
	const url = "https://train.example.org"
	if id.Pass(url) != "" {
		t.Error("a pass from nowhere")
	}
	if err := id.KeepPass(url, "pass.x"); err != nil {
		t.Fatal(err)
	}
	if id.Pass(url) != "pass.x" || id.Pass(url+"/b") != "" {
		t.Error("the pass is not kept for its host")
	}
	for _, name := range []string{path, id.passes()} {
		info, err := os.Stat(name)
		if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
	if names, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".identity-*")); len(names) > 0 {
		t.Errorf("left over: %v", names)
	}
	if runtime.GOOS != "windows" {
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenIdentity(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("a key that all can read: %v", err)
		}
	}
	if err := os.WriteFile(path, []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_ = os.Chmod(path, 0o600)
	if _, err := OpenIdentity(path); err == nil {
		t.Error("a broken key was read")
	}
}
