"""What the tests of clients share: TAP output, psql, npm."""
import json
import os
import shutil
import subprocess
import sys
import time

count = failed = 0


def ok(condition, name, detail=''):
    global count, failed
    count += 1
    if not condition:
        failed += 1
        if detail:
            print('# ' + str(detail).replace('\n', '\n# '))
    print(f"{'ok' if condition else 'not ok'} {count} - {name}", flush=True)


def skip(name, reason):
    global count
    count += 1
    print(f'ok {count} - {name} # skip {reason}', flush=True)


def skip_all(name, reason):
    skip(name, reason)
    sys.exit(0)


def done():
    sys.exit(1 if failed else 0)


def psql(sql, **settings):
    return subprocess.run(['psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-f', '-'], input=sql, check=True, text=True,
                          stdout=subprocess.PIPE, env=dict(os.environ, PGOPTIONS='-c client_min_messages=warning', **settings)).stdout.rstrip('\n')


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def npm_install(directory):
    """Installs what package.json there names; None, or why it cannot be.  Where npm or
    its registry is out of reach, the modules that Debian packages will do."""
    reason = npm_run(directory)
    with open(os.path.join(directory, 'package.json')) as file:
        modules = list(json.load(file)['dependencies'])
    if reason and shutil.which('node') and all(
            subprocess.run(['node', '-e', f'require.resolve({json.dumps(m)})'], cwd=directory, stderr=subprocess.DEVNULL).returncode == 0 for m in modules):
        print(f'# {reason}: {", ".join(modules)} are those of the distribution', flush=True)
        return None
    return reason


def npm_run(directory):
    if not shutil.which('npm') or not shutil.which('node'):
        return 'npm is not installed'
    run = subprocess.run(['npm', 'install', '--no-audit', '--no-fund', '--ignore-scripts', '--prefer-offline', '--fetch-retries=1', '--fetch-timeout=30000'],
                         cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if run.returncode == 0:
        return None
    if any(code in run.stdout for code in ('ENOTFOUND', 'EAI_AGAIN', 'ECONNREFUSED', 'ETIMEDOUT', 'ENETUNREACH', 'ERR_SOCKET_TIMEOUT')):
        return 'the npm registry cannot be reached'
    raise SystemExit('npm install failed:\n' + run.stdout)
