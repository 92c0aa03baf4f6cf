# Reads the tars that are named, as Python does: for each its name, one line an entry, and "error: …" if reading fails.
import decimal, hashlib, sys, tarfile

KINDS = {b'0': 'file', b'\0': 'file', b'7': 'file', b'1': 'hard', b'2': 'sym', b'3': 'char', b'4': 'block', b'5': 'dir',
         b'6': 'fifo'}

def raw(text):
    return text.encode('utf-8', 'surrogateescape')

def shown(name):
    return ''.join(chr(c) if 32 < c < 127 and c != 92 else '\\x%02x' % c for c in name)

def path(name):
    return shown(raw(name[1:] if name.startswith('/') else name).rstrip(b'/'))

def time(member):
    # tarfile keeps a float, which has lost digits.
    text = member.pax_headers.get('mtime')
    try:
        exact = decimal.Decimal(text) if text and float(text) == member.mtime else decimal.Decimal(member.mtime)
    except (decimal.InvalidOperation, ValueError):
        exact = decimal.Decimal(member.mtime)
    whole = exact // 1 if exact >= 0 else -(-exact // 1) - (exact % 1 != 0)
    return '%d.%09d' % (whole, (exact - whole) * 10**9 // 1)

def line(tar, member):
    kind = KINDS.get(member.type, 'type ' + shown(member.type))
    content = tar.extractfile(member).read() if kind == 'file' else b''
    link = path(member.linkname) if kind == 'hard' else shown(raw(member.linkname)) if kind == 'sym' else ''
    device = '%d,%d' % (member.devmajor, member.devminor) if kind in ('char', 'block') else ''
    xattrs = sorted((raw(key[13:]), raw(value)) for key, value in member.pax_headers.items()
                    if key.startswith('SCHILY.xattr.'))
    xattrs = ' '.join(shown(key) + '=' + shown(value) for key, value in xattrs)
    digest = hashlib.sha256(content).hexdigest()[:16]
    mode = member.mode & 0o7777
    return (f'{kind} {path(member.name)} -> {link} {mode:o} {member.uid}:{member.gid} {time(member)} [{device}] '
            f'{len(content)} {digest} {xattrs}').rstrip()

for name in sys.argv[1:]:
    print('tar', name)
    try:
        with tarfile.open(name, 'r:', encoding='utf-8', errors='surrogateescape') as tar:
            for member in tar:
                print(line(tar, member))
    except Exception as error:
        print('error:', type(error).__name__, str(error).replace('\n', ' '))
