<?php
/**
 * Tests of handoff.php with PHP's own interpreter: what is decided on the command line, what is sent with PHP's
 * built-in server. Prints "N passed, M failed"; exits with 1 if one failed. The environment's PHP names another
 * interpreter for the server. `run.php payload` needs no server.
 */

declare(strict_types=1);

use Handoffd\Handoff;

error_reporting(E_ALL);
set_error_handler(static function (int $level, string $message, string $file, int $line): bool {
    if ((error_reporting() & $level) === 0) {
        return false;
    }
    throw new ErrorException($message, 0, $level, $file, $line);
});

require __DIR__ . '/../handoff.php';
require __DIR__ . '/server.php';

/** @param mixed $expected @param mixed $actual */
function same($expected, $actual, string $what = ''): void
{
    if ($expected !== $actual) {
        throw new RuntimeException("$what\n    expected: " . var_export($expected, true) . "\n    actual:   "
            . var_export($actual, true));
    }
}

function holds(bool $fact, string $what): void
{
    same(true, $fact, $what);
}

/** Runs it, and returns the message of the exception that must come: of this class of Handoffd. */
function refused(string $class, callable $attempt): string
{
    try {
        $attempt();
    } catch (Handoffd\HandoffException $e) {
        same("Handoffd\\$class", get_class($e), $e->getMessage());
        return $e->getMessage();
    }
    throw new RuntimeException("nothing is refused; expected $class");
}

$passed = 0;
$failed = 0;
foreach (array_slice($argv, 1) ?: ['payload', 'sending'] as $room) {
    foreach (require __DIR__ . "/$room.php" as $promise => $test) {
        $_SERVER = array_diff_key($_SERVER, array_flip(['REQUEST_METHOD', 'HTTP_LAST_EVENT_ID', 'REMOTE_ADDR',
            'HTTP_TRACEPARENT', 'HTTP_ORIGIN', 'SERVER_PROTOCOL', 'UNIQUE_ID']));
        putenv('HANDOFFD_SOCKET');
        try {
            $test();
            $passed++;
        } catch (Throwable $e) {
            $failed++;
            echo "FAILED $promise\n  {$e->getMessage()}\n  {$e->getFile()}:{$e->getLine()}\n";
        }
    }
}
echo "$passed passed, $failed failed (PHP ", PHP_VERSION, ")\n";
exit($failed === 0 && $passed > 0 ? 0 : 1);
