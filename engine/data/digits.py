"""Makes digits.gz: scikit-learn's load_digits, split as the walkthrough splits it.

Unpacked: 1797 x 64 pixels (0..16, a byte each), then 1797 labels (a byte each); the 1078
training rows come first, in train_test_split's order, then the 719 of validation.
It prints the hashes of what the walkthrough's preprocessing makes of them, float32 in
little-endian order, which digits_test.go pins.

    pip install scikit-learn
    python digits.py
"""
import gzip, hashlib, os
import numpy as np
from sklearn import datasets
from sklearn.model_selection import train_test_split


def to_categorical(x):
    one_hot = np.zeros((x.shape[0], np.amax(x) + 1))
    one_hot[np.arange(x.shape[0]), x] = 1
    return one_hot


data = datasets.load_digits()
y = to_categorical(data.target.astype("int"))
X_train, X_test, y_train, y_test = train_test_split(data.data, y, test_size=0.4, random_state=1)

for name, a in dict(train_x=X_train, train_y=y_train, val_x=X_test, val_y=y_test).items():
    print(name, a.shape, hashlib.sha256(a.astype("<f4").tobytes()).hexdigest())

pixels = np.concatenate([X_train, X_test])
labels = np.concatenate([y_train, y_test]).argmax(1)
raw = pixels.astype(np.uint8)
assert (raw == pixels).all() and raw.max() == 16
packed = gzip.compress(raw.tobytes() + labels.astype(np.uint8).tobytes(), 9, mtime=0)
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "digits.gz"), "wb") as f:
    f.write(packed)
print(len(packed), "bytes")
